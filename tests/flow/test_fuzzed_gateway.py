"""Requests that schemathesis makes from our own OpenAPI document, valid and invalid ones, to every route."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tuneloop.engines import EngineConfig
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.serve.keys import KeyRing

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")
schemathesis = pytest.importorskip("schemathesis", reason="pip install 'tuneloop[dev]'")

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from tuneloop.serve.check import running  # noqa: E402

FAST, SLOW = 300, 5000
"""Requests, all routes together."""
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
KEY = "an-admin-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def url(tiny: Callable[..., Path]) -> Iterator[str]:
    bundle: Bundle = open_bundle(tiny("llama", "chatml"))
    with running(ServeConfig(engine=EngineConfig(name="fake"), model_name="bank"), bundle) as (gateway, url, _):
        gateway.ring = KeyRing.of(KEY, scopes=("admin",))
        yield url


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/openapi.json", headers=HEADERS).json()  # type: ignore[no-any-return]


def problem(reply: Any, documented: set[str]) -> str | None:
    """What is wrong with an answer; None when nothing is."""
    if reply.status_code >= 500:
        return "a failure of the server"
    if str(reply.status_code) not in documented:
        return "a status that is not in the document"
    if reply.status_code >= 400:
        body = reply.json()
        if set(body) != {"error"} or set(body["error"]) != {"message", "type", "param", "code"}:
            return "an error that has not OpenAI's shape"
    return None


def fuzz(url: str, document: dict[str, Any], total: int) -> Counter[tuple[str, int]]:
    """Send ``total`` requests, as many to each route that takes something; returns how many got which status.

    Raises:
        AssertionError: The first answer that is wrong, with the request that got it.
    """
    operations = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    taking = [o for o in operations if o.body or o.path_parameters or o.query]
    each = -(-total // (len(taking) * len(MODES)))
    seen: Counter[tuple[str, int]] = Counter()
    for operation in operations:
        for mode in MODES if operation in taking else MODES[:1]:
            send(operation, mode, each if operation in taking else 1, url, document, seen)
    return seen


def send(
    operation: Any, mode: Any, count: int, url: str, document: dict[str, Any], seen: Counter[tuple[str, int]]
) -> None:
    documented = set(document["paths"][operation.path][operation.method]["responses"])

    @seed(20261121)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        reply = case.call(base_url=url, headers=HEADERS, timeout=30)
        seen[operation.label, reply.status_code] += 1
        if wrong := problem(reply, documented):
            raise AssertionError(f"{wrong}: {reply.status_code} {reply.text[:500]}\n{case.as_curl_command()}")

    one()


def test_fuzzed_requests_to_every_route_never_fail_the_server(url: str, document: dict[str, Any]) -> None:
    seen = fuzz(url, document, FAST)
    assert seen["POST /v1/chat/completions", 200] + seen["POST /generate", 200] > 0  # not all of them were refused
    assert httpx.get(f"{url}/readyz").status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_five_thousand_fuzzed_requests_never_fail_the_server(url: str, document: dict[str, Any]) -> None:
    total = int(os.environ.get("TUNELOOP_FUZZ_REQUESTS", SLOW))
    seen = fuzz(url, document, total)
    print(sum(seen.values()), dict(sorted(seen.items())))
    assert sum(seen.values()) >= total * 0.9  # a route without parameters has few different requests
    assert httpx.get(f"{url}/readyz").status_code == 200


def test_the_document_names_every_route_its_key_and_its_errors(url: str, document: dict[str, Any]) -> None:
    routes = {"/v1/chat/completions", "/v1/completions", "/generate", "/v1/models", "/metrics", "/healthz", "/readyz"}
    assert routes <= set(document["paths"])
    for path, methods in document["paths"].items():
        for operation in methods.values():
            public = path in ("/healthz", "/readyz")
            assert ("security" in operation) != public
            assert "422" not in operation["responses"]
            assert public or {"401", "403", "429", "503"} <= set(operation["responses"])
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    stop = document["components"]["schemas"]["ChatRequest"]["properties"]["stop"]
    assert {part.get("type") for part in stop["anyOf"]} == {"string", "array", "null"}
