"""What a scrape costs stays what it was, whatever clients send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tuneloop.engines import EngineConfig
from tuneloop.models import open_bundle
from tuneloop.serve import ServeConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running  # noqa: E402

MOST_SERIES = 400


def test_clients_cannot_make_series(tiny: Callable[..., Path]) -> None:
    """Paths, methods, models, users, keys, conversations and traces are free text: none may become a label."""
    config = ServeConfig(engine=EngineConfig(name="fake"), model_name="bank")
    with (
        running(config, open_bundle(tiny("llama", "chatml"))) as (gateway, url, key),
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        headers = {"Authorization": f"Bearer {key}"}

        def ask(i: int) -> None:
            mine = headers | {"X-Conversation-Id": f"c{i}", "traceparent": f"00-{i + 1:032x}-{i + 1:016x}-01"}
            body = {"messages": [{"role": "user", "content": f"question {i}"}], "user": f"u{i}", "max_tokens": 1 + i}
            assert http.post("/v1/chat/completions", json=body, headers=mine).status_code == 200
            assert http.post("/v1/chat/completions", json=body | {"model": f"m{i}"}, headers=mine).status_code == 404
            assert http.post("/v1/chat/completions", json=body | {f"field{i}": 1}, headers=mine).status_code == 400
            assert http.get(f"/v1/models/m{i}", headers=mine).status_code == 404
            assert http.get(f"/v1/path{i}", headers=mine).status_code == 404
            assert http.get(f"/path{i}", headers={"Authorization": f"Bearer wrong{i}"}).status_code == 401

        ask(0)
        before = gateway.metrics.render().count(b"\n")
        for i in range(1, 10):
            ask(i)
        assert gateway.metrics.render().count(b"\n") == before < MOST_SERIES


def test_an_answer_that_ends_at_a_stop_string_is_counted(tiny: Callable[..., Path]) -> None:
    with running(ServeConfig(engine=EngineConfig(name="fake")), open_bundle(tiny("llama", "chatml"))) as found:
        gateway, url, key = found
        body = {"messages": [{"role": "user", "content": "x"}], "stop": "helpful"}
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, trust_env=False).status_code == 200
        read, labels = gateway.metrics.registry.get_sample_value, gateway.metrics.labels
        assert read("tuneloop_request_success_total", labels | {"finished_reason": "stop"}) == 1
        assert read("model_latency_seconds_count", labels) == 1
