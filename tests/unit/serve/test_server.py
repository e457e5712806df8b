"""What a signal does to a server, wherever it interrupts it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tuneloop import progress
from tuneloop.chat import Chat
from tuneloop.engines import EngineConfig
from tuneloop.models import load_tokenizer, open_bundle
from tuneloop.serve import ServeConfig

pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.gateway import Gateway
from tuneloop.serve.server import Server


def test_a_signal_writes_no_line_before_what_it_interrupts_goes_on(tiny: Callable[..., Path]) -> None:
    """It runs between two bytecodes of the main thread, which may just hold the lock of the log's queue: to write then
    is to wait for oneself for ever."""
    bundle = open_bundle(tiny("llama", "chatml"))
    gateway = Gateway(ServeConfig(engine=EngineConfig(name="fake")), bundle, Chat(load_tokenizer(bundle)))
    server = Server(gateway)
    said: list[str] = []

    async def interrupted() -> None:
        gateway.hub.loop = asyncio.get_running_loop()
        server.handle_exit(signal.SIGTERM, None)
        assert gateway.draining
        assert said == []
        await asyncio.sleep(0)

    progress.set_sink(said.append)
    try:
        asyncio.run(interrupted())
    finally:
        progress.set_sink(None)
    assert [line.partition(":")[0] for line in said] == ["draining"]
