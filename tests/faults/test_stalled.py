"""An engine that holds requests and emits nothing: not ready at once, restarted later, alive all the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import open_bundle
from tuneloop.serve import ServeConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.observe import ObserveConfig  # noqa: E402


def test_a_hung_engine_is_stalled_then_restarted_then_ready(tiny: Callable[..., Path], tmp_path: Path) -> None:
    fake = FakeConfig(token_delay_s=0.01, hang_after_tokens=8, fault_once_file=tmp_path / "hung")
    engine = EngineConfig(name="fake", stall_timeout_s=2.0, fake=fake)
    config = ServeConfig(engine=engine, observe=ObserveConfig(unready_after_s=0.5))
    with (
        running(config, open_bundle(tiny("llama", "chatml"))) as (gateway, url, key),
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as http,
    ):

        def status() -> tuple[int, str]:
            reply = http.get("/readyz")
            return reply.status_code, reply.json()["status"]

        assert status() == (200, "ready")
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "a question with some words in it"}]}
        asked = pool.submit(http.post, "/v1/chat/completions", json=body)
        seen = [status()]
        deadline = time.monotonic() + 30
        while gateway.process.restarts == 0 or seen[-1] != (200, "ready"):
            assert time.monotonic() < deadline, seen
            if (now := status()) != seen[-1]:
                seen.append(now)
            assert http.get("/healthz").status_code == 200
            time.sleep(0.02)
        assert seen == [(200, "ready"), (503, "stalled"), (503, "restarting"), (200, "ready")]
        assert asked.result().status_code == 500
        assert http.post("/v1/chat/completions", json=body).status_code == 200


def test_an_idle_engine_is_ready_however_long_nobody_asks(tiny: Callable[..., Path]) -> None:
    config = ServeConfig(engine=EngineConfig(name="fake"), observe=ObserveConfig(unready_after_s=0.1))
    with running(config, open_bundle(tiny("llama", "chatml"))) as (gateway, _, _):
        time.sleep(0.5)
        assert (gateway.process.silent_s, gateway.status) == (0.0, "ready")
