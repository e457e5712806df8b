"""What goes wrong inside a route is told, counted and logged as everywhere else, also where no tokens are asked for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import waiter
from tuneloop.engines import EngineConfig
from tuneloop.errors import ResourceError
from tuneloop.models import open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.serve.keys import KeyRing

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.gateway import Gateway  # noqa: E402

wait_for = waiter(10.0)
Site = tuple[Gateway, Any, str]


@pytest.fixture
def site(tiny: Callable[..., Path]) -> Iterator[Site]:
    config = ServeConfig(engine=EngineConfig(name="fake"))
    with running(config, open_bundle(tiny("llama", "chatml"))) as (gateway, url, key):
        gateway.ring = KeyRing.of(key, scopes=("chat", "batch"))
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as http:
            yield gateway, http, key


def counted(gateway: Gateway, name: str, **labels: str) -> float:
    found = gateway.metrics.registry.get_sample_value(f"tuneloop_{name}_total", gateway.metrics.labels | labels)
    return found or 0.0


def test_what_nobody_foresaw_is_an_error_in_our_words_and_the_connection_lives(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, http, _ = site
    monkeypatch.delattr(gateway, "model")
    reply = http.get("/v1/models")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "server_error")
    assert reply.headers["x-request-id"]
    assert reply.headers.get("connection") != "close"
    assert counted(gateway, "errors", reason="internal") == 1
    assert counted(gateway, "requests", route="/v1/models", code="500") == 1
    assert http.get("/v1/batches").status_code == 200


def test_an_upload_that_is_broken_off_is_the_clients_doing(site: Site) -> None:
    gateway, http, key = site
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    with socket.create_connection((http.base_url.host, http.base_url.port)) as sender:
        sender.sendall(head.encode())
    wait_for(lambda: counted(gateway, "requests", route="/v1/files", code="499") == 1)
    assert counted(gateway, "requests", route="/v1/files", code="500") == 0
    assert counted(gateway, "errors", reason="internal") == 0


@pytest.mark.parametrize(("module", "name"), [("models", "listed"), ("doors", "read")])
def test_what_knows_its_own_words_is_told_in_them(
    site: Site, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    gateway, http, _ = site

    def fail(*_: Any) -> Any:
        raise ResourceError("the disk has gone")

    monkeypatch.setattr(f"tuneloop.serve.routes.{module}.{name}", fail)
    reply = http.get("/v1/models") if module == "models" else http.post("/generate", json={"prompt": "x"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["message"]) == (500, "server_error", "the disk has gone")
    assert counted(gateway, "errors", reason="internal") == 1
