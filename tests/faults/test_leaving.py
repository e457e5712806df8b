"""A client that leaves, by whichever door, frees its place within one step of the engine. Steps are counted, not timed:
beside the client that leaves, one stays and one waits."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.third_party import install_engine
from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.types import Request, TokenEvent

pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")
grpc = pytest.importorskip("grpc", reason="pip install 'tuneloop[grpc]'")
pytest.importorskip("grpc_status", reason="pip install 'tuneloop[grpc]'")

from tests.faults.load import CHAT, COMPLETIONS, GENERATE, Site, wait_for  # noqa: E402
from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.rpc import tuneloop_pb2 as pb  # noqa: E402
from tuneloop.serve.rpc.tuneloop_pb2_grpc import TuneloopStub  # noqa: E402

STEP_S = 0.4
"""Far longer than a busy machine takes to notice that somebody has left."""
TOKENS = 400
"""Of the one that leaves, and of the one that stays: a minute."""
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "I lost my card"}]},
    COMPLETIONS: {"prompt": "I lost my card"},
    GENERATE: {"prompt": "I lost my card"},
}


class Record:
    """Everything that an engine's process says, in order."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[str] = []
        self.events: list[TokenEvent] = []
        process = site.gateway.process
        submit, deliver = process.submit, process._deliver

        def submitted(request: Request) -> None:
            self.ids.append(request.id)
            submit(request)

        def delivered(events: list[TokenEvent]) -> None:
            self.events += events
            deliver(events)

        monkeypatch.setattr(process, "submit", submitted)
        monkeypatch.setattr(process, "_deliver", delivered)

    def told(self, number: int) -> list[int]:
        """Where in ``events`` the tokens of the request lie that came as number ``number``."""
        if len(self.ids) <= number:
            return []
        return [i for i, e in enumerate(self.events) if e.request_id == self.ids[number] and e.token_ids]


def http(site: Site, path: str, stream: bool) -> Callable[[], None]:
    """Ask over a raw connection; returns how to leave."""
    body = json.dumps(ASKED[path] | {"max_tokens": TOKENS, "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {site.headers['Authorization']}\r\n"
    made = socket.create_connection(("127.0.0.1", int(site.url.rpartition(":")[2])))
    made.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return made.close


def rpc(site: Site, kind: str, stream: bool) -> Callable[[], None]:
    """The same over gRPC."""
    assert site.gateway.rpc is not None
    channel = grpc.insecure_channel(f"127.0.0.1:{site.gateway.rpc.port}")
    body: Any = pb.GenerateRequest(prompt="I lost my card", max_tokens=TOKENS)
    if kind == "Chat":
        body = pb.ChatRequest(messages=[pb.Message(role="user", content="I lost my card")], max_tokens=TOKENS)
    method = getattr(TuneloopStub(channel), f"{kind}Stream" if stream else kind)
    asked = (method if stream else method.future)(body, metadata=(("authorization", site.headers["Authorization"]),))

    def leave() -> None:
        asked.cancel()
        channel.close()

    return leave


@contextmanager
def site(bundle: Bundle, engine: EngineConfig) -> Iterator[Site]:
    with running(ServeConfig(engine=engine, grpc_port=0), bundle) as (gateway, url, key):
        made = Site(gateway, url, key)
        with made.http:
            yield made


def check_leaving(here: Site, door: Callable[[Site, str, bool], Callable[[], None]], path: str, stream: bool) -> None:
    stays, leaves, waits = range(3)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        record = Record(here, patch)
        go_too = http(here, CHAT, True)
        wait_for(lambda: len(record.ids) == 1)
        leave = door(here, path, stream)
        wait_for(lambda: len(record.ids) == 2)
        waiting = pool.submit(here.ask, {"prompt": "Is there room?", "max_tokens": 1})
        wait_for(lambda: here.gateway.hub.waiting == 1 and len(record.told(leaves)) >= 2)
        seen = len(record.told(leaves))
        wait_for(lambda: len(record.told(leaves)) > seen)  # a step has just ended: the next one has just begun
        left = len(record.events)
        leave()
        assert waiting.result(30).answered
        go_too()
        wait_for(lambda: here.gateway.process.in_flight == 0)
    assert len(record.told(leaves)) <= seen + 2, "it went on answering nobody"
    # The step that ran when it left, and the one in which the waiting request begins: its neighbour's token may come first.
    steps = [i for i in record.told(stays) if left <= i < record.told(waits)[0]]
    assert len(steps) <= 2, "its place lay idle"


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


@pytest.fixture(scope="module")
def fake(bundle: Bundle) -> Iterator[Site]:
    answers = FakeConfig(token_delay_s=STEP_S, answer_ids=(70,) * TOKENS)
    with site(bundle, EngineConfig(name="fake", max_running=2, fake=answers)) as made:
        yield made


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("door", "path"), [(http, CHAT), (http, COMPLETIONS), (http, GENERATE), (rpc, "Chat"), (rpc, "Generate")]
)
def test_a_client_that_leaves_frees_its_place_within_a_step(fake: Site, door: Any, path: str, stream: bool) -> None:
    check_leaving(fake, door, path, stream)


UNHURRIED = f'''
import time
from tuneloop.engines.transformers_engine import TransformersEngine

class Unhurried(TransformersEngine):
    """Steps of the real engine, long enough to leave between them."""

    def _advance(self):
        time.sleep({STEP_S})
        return super()._advance()
'''


@pytest.fixture
def unhurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    install_engine(tmp_path, monkeypatch, "unhurried", UNHURRIED)
    return EngineConfig(name="unhurried", max_running=2, threads=1)


def test_also_in_the_transformers_engine(bundle: Bundle, unhurried: EngineConfig) -> None:
    with site(bundle, unhurried) as here:
        for door, path, stream in ((http, CHAT, True), (http, COMPLETIONS, False), (rpc, "Chat", True)):
            check_leaving(here, door, path, stream)
