"""The line that a request leaves in the log, seen from outside: a real gateway, a real client."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import open_bundle
from tuneloop.serve import ServeConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.logs import Logs  # noqa: E402
from tuneloop.serve.observe import ObserveConfig  # noqa: E402

SECRET = "my card ends in 4711"
ASK = {"messages": [{"role": "user", "content": SECRET}], "user": "joe-the-user", "max_tokens": 4}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Site:
    """A gateway with its log in memory."""

    def __init__(self, gateway: Any, url: str, key: str) -> None:
        self.gateway, self.key, self._sink = gateway, key, io.StringIO()
        gateway.logs = Logs(ObserveConfig(logs="json"), lambda: None, self._sink)
        gateway.logs.start()
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
        self.seen = 0

    @property
    def text(self) -> str:
        return self._sink.getvalue()

    def requests(self) -> list[dict[str, Any]]:
        return [r for r in map(json.loads, self.text.splitlines()) if r["event"] == "request"]

    def row(self, request_id: str) -> dict[str, Any]:
        """The line of a request; it is written after the answer has gone out."""
        deadline = time.monotonic() + 10
        while not (found := [r for r in self.requests() if r["request_id"] == request_id]):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.01)
        assert len(found) == 1
        return found[0]

    def close(self) -> None:
        self.http.close()
        self.gateway.logs.stop()


@pytest.fixture
def site(request: pytest.FixtureRequest, tiny: Callable[..., Path]) -> Iterator[Site]:
    observe = ObserveConfig(**getattr(request, "param", {}))
    engine = EngineConfig(name="fake", fake=FakeConfig(token_delay_s=0.005, answer_ids=(70,) * 400))
    config = ServeConfig(engine=engine, model_name="bank", arm="b", observe=observe)
    with running(config, open_bundle(tiny("llama", "chatml"))) as (gateway, url, key):
        made = Site(gateway, url, key)
        yield made
        made.close()


def test_it_has_the_numbers_of_the_request_and_what_answered(site: Site) -> None:
    reply = site.http.post("/v1/chat/completions", json=ASK)
    row = site.row(reply.headers["x-request-id"])
    assert (row["method"], row["route"], row["status"]) == ("POST", "/v1/chat/completions", 200)
    assert (row["model"], row["arm"], row["precision"]) == ("bank", "b", "float32")
    assert (row["id"], row["finish"], row["completion_tokens"]) == (reply.json()["id"], ["length"], 4)
    assert row["prompt_tokens"] == reply.json()["usage"]["prompt_tokens"]
    assert 0 <= row["queue_s"] <= row["first_token_s"] <= row["duration_s"]


def test_neither_key_nor_user_nor_text_is_in_it(site: Site) -> None:
    reply = site.http.post("/v1/chat/completions", json=ASK)
    assert site.row(reply.headers["x-request-id"])["key"] == "key0"
    answer = reply.json()["choices"][0]["message"]["content"]
    assert answer
    assert not any(word in site.text for word in (site.key, SECRET, "joe-the-user", json.dumps(answer)[1:-1]))


@pytest.mark.parametrize("site", [{"log_bodies": True}], indirect=True)
def test_texts_are_in_it_where_they_are_asked_for(site: Site) -> None:
    reply = site.http.post("/v1/chat/completions", json=ASK)
    row = site.row(reply.headers["x-request-id"])
    assert SECRET in row["prompts"][0]
    assert row["answers"] == [reply.json()["choices"][0]["message"]["content"]]
    assert site.key not in site.text


def test_a_stream_is_written_when_it_ends_with_all_its_tokens(site: Site) -> None:
    with site.http.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True, "n": 2}) as reply:
        reply.read()
    row = site.row(reply.headers["x-request-id"])
    assert (row["completion_tokens"], row["finish"]) == (8, ["length", "length"])


def test_a_client_that_leaves_is_written_as_cancelled(site: Site) -> None:
    with site.http.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True, "max_tokens": 400}) as reply:
        next(reply.iter_lines())
    assert site.row(reply.headers["x-request-id"])["finish"] == ["cancelled"]


def test_an_engine_that_dies_in_mid_stream_is_written_as_error_though_the_status_was_200(site: Site) -> None:
    with site.http.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True, "max_tokens": 400}) as reply:
        lines = reply.iter_lines()
        next(lines)
        os.kill(site.gateway.process.pid, signal.SIGKILL)
        list(lines)
    row = site.row(reply.headers["x-request-id"])
    assert (row["status"], row["finish"]) == (200, ["error"])


@pytest.mark.parametrize(
    ("path", "headers", "status", "route", "error"),
    [
        ("/v1/chat/completions", {"Authorization": "Bearer tl-wrong-key"}, 401, "none", "invalid_api_key"),
        ("/v1/my-secret-path", {}, 400, "none", "invalid_json"),
        ("/v1/chat/completions", {"Content-Type": "application/json"}, 400, "none", "invalid_json"),
    ],
)
def test_a_refusal_is_written_with_its_reason_and_never_with_what_was_sent(
    site: Site, path: str, headers: dict[str, str], status: int, route: str, error: str
) -> None:
    reply = site.http.post(path, content=b"{", headers=headers)
    row = site.row(reply.headers["x-request-id"])
    assert (row["status"], row["route"], row["error"]) == (status, route, error)
    assert not any(word in site.text for word in ("tl-wrong-key", "my-secret-path"))


def test_probes_leave_no_line(site: Site) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert site.http.get(path).status_code == 200
    last = site.http.get("/v1/models")
    site.row(last.headers["x-request-id"])
    assert [r["route"] for r in site.requests()] == ["/v1/models"]


def test_a_trace_is_written_and_passed_on_to_the_engine(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    submit = site.gateway.process.submit
    monkeypatch.setattr(site.gateway.process, "submit", lambda r: (seen.append(r), submit(r)))
    reply = site.http.post("/v1/chat/completions", json=ASK, headers={"traceparent": TRACEPARENT})
    row = site.row(reply.headers["x-request-id"])
    assert (row["trace_id"], row["parent_id"]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert seen[0].context.traceparent == f"00-{row['trace_id']}-{row['span_id']}-01"


def test_without_a_trace_there_are_no_fields_of_one(site: Site) -> None:
    reply = site.http.post("/v1/chat/completions", json=ASK, headers={"traceparent": "nonsense"})
    assert not {"trace_id", "span_id", "parent_id"} & set(site.row(reply.headers["x-request-id"]))
