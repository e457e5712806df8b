"""An engine's process is killed, hangs, cannot start, or loses its parent: nobody waits for ever and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.third_party import install_engine
from tests.waiting import waiter
from tuneloop.engines import EngineConfig, EngineProcess, FakeConfig, ProcessEngine, State
from tuneloop.errors import ConfigError, ModelError, ServeError
from tuneloop.models import Bundle
from tuneloop.types import Request, Sampling, TokenEvent

wait_for = waiter(20.0, every_s=0.02)
PROMPT = tuple(range(10, 40))
LONG = Sampling(max_tokens=30)


def config(stall_timeout_s: float = 30.0, **fake: object) -> EngineConfig:
    return EngineConfig(
        name="fake", stall_timeout_s=stall_timeout_s, fake=FakeConfig(**{"token_delay_s": 0.01, **fake})
    )


Start = Callable[[EngineConfig, "Listener"], EngineProcess]


class Loop(asyncio.SelectorEventLoop):
    """An event loop that runs on a thread of its own and says when it has begun to read something."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()
        self.thread = threading.Thread(target=self.run_forever, daemon=True)
        self.thread.start()

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]  # that one is generic
        super().add_reader(fd, callback, *args)
        self.reading.set()

    def end(self) -> None:
        self.call_soon_threadsafe(self.stop)
        self.thread.join()
        self.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    if not made.is_closed():
        made.end()


@pytest.fixture(params=["a thread reads", "a loop reads"])
def start(request: pytest.FixtureRequest) -> Start:
    """Starts an engine's process whose messages are read as in a program of one's own, or as in the gateway."""

    def started(config: EngineConfig, heard: Listener) -> EngineProcess:
        process = EngineProcess(config, None, heard).start()
        if request.param == "a loop reads":
            read_on(request.getfixturevalue("loop"), process)
        return process

    return started


def read_on(loop: Loop, process: EngineProcess) -> None:
    process.read_on(loop)
    assert loop.reading.wait(10)


class Listener:
    """Collects what a process delivers."""

    def __init__(self) -> None:
        self.queue: queue.Queue[TokenEvent] = queue.Queue()

    def __call__(self, events: list[TokenEvent]) -> None:
        for event in events:
            self.queue.put(event)

    def ends(self, count: int, patience_s: float = 30.0) -> dict[str, TokenEvent]:
        """The last events of ``count`` requests."""
        ended: dict[str, TokenEvent] = {}
        deadline = time.monotonic() + patience_s
        while len(ended) < count:
            event = self.queue.get(timeout=max(deadline - time.monotonic(), 0.01))
            if event.finish:
                assert event.request_id not in ended, "a request ended twice"
                ended[event.request_id] = event
        return ended

    def first_tokens(self, count: int) -> None:
        seen: set[str] = set()
        while len(seen) < count:
            event = self.queue.get(timeout=10)
            assert event.finish is None
            seen.add(event.request_id)


def test_killed_under_load_ends_what_had_begun_with_an_error_and_comes_back(start: Start) -> None:
    heard = Listener()
    with start(config(), heard) as process:
        for i in range(3):
            process.submit(Request(f"r{i}", PROMPT, LONG))
        heard.first_tokens(3)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        ends = heard.ends(3)
        assert {e.finish for e in ends.values()} == {"error"}
        assert all("SIGKILL" in (e.error or "") for e in ends.values())
        wait_for(lambda: process.ready)
        process.submit(Request("after", PROMPT, Sampling(max_tokens=2)))
        assert heard.ends(1)["after"].finish == "length"
        assert process.restarts == 1


def test_a_request_without_a_token_is_tried_once_more(start: Start, tmp_path: Path) -> None:
    heard = Listener()
    faulty = config(crash_after_tokens=1, fault_once_file=tmp_path / "crashed")  # the first token is the warm-up's
    with start(faulty, heard) as process:
        process.submit(Request("again", PROMPT, Sampling(max_tokens=3)))
        assert heard.ends(1)["again"].finish == "length"
        assert process.restarts == 1
    assert (tmp_path / "crashed").exists()


def test_a_request_that_kills_the_engine_every_time_ends_with_an_error(start: Start) -> None:
    heard = Listener()
    with start(config(crash_after_tokens=1), heard) as process:
        process.submit(Request("poison", PROMPT, Sampling(max_tokens=3)))
        end = heard.ends(1)["poison"]
        assert end.finish == "error"
        assert process.restarts == 2  # the first life and the one retry


def test_a_hung_engine_is_noticed_killed_and_replaced(start: Start, tmp_path: Path) -> None:
    heard = Listener()
    hanging = config(0.7, hang_after_tokens=4, fault_once_file=tmp_path / "hung")
    with start(hanging, heard) as process:
        process.submit(Request("stuck", PROMPT, LONG))
        end = heard.ends(1)["stuck"]
        assert end.finish == "error"
        assert "no token for 0.7 s" in (end.error or "")
        wait_for(lambda: process.ready)
        process.submit(Request("after", PROMPT, Sampling(max_tokens=2)))
        assert heard.ends(1)["after"].finish == "length"


def test_a_stopped_engine_is_a_hung_engine(start: Start) -> None:
    heard = Listener()
    with start(config(0.7), heard) as process:
        process.submit(Request("stopped", PROMPT, LONG))
        heard.first_tokens(1)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        assert heard.ends(1)["stopped"].finish == "error"


def test_a_stopped_engine_does_not_hold_up_those_who_submit(start: Start) -> None:
    heard = Listener()
    with start(config(1.0, context_tokens=200_000), heard) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        for i in range(20):  # far more than the socket's buffer holds
            process.submit(Request(f"big{i}", tuple(range(50_000)), Sampling(max_tokens=1)))
        assert time.monotonic() - began < 0.9
        ends = heard.ends(20)  # killed, started again, tried once more
        assert {e.finish for e in ends.values()} == {"length"}


def test_a_loop_reads_also_after_a_restart(loop: Loop) -> None:
    heard, threads = Listener(), set[threading.Thread]()

    def listen(events: list[TokenEvent]) -> None:
        threads.add(threading.current_thread())
        heard(events)

    with EngineProcess(config(), None, listen).start() as process:
        process.read_on(loop)
        for life in range(2):
            assert loop.reading.wait(10)
            loop.reading.clear()
            process.submit(Request(f"life{life}", PROMPT, Sampling(max_tokens=3)))
            assert heard.ends(1)[f"life{life}"].finish == "length"
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            wait_for(lambda: process.state is State.RESTARTING)
    assert threads == {loop.thread}


def test_an_engine_is_not_hung_while_nobody_has_read_what_it_says(loop: Loop) -> None:
    heard = Listener()
    with EngineProcess(config(0.7), None, heard).start() as process:
        read_on(loop, process)
        process.submit(Request("unread", PROMPT, LONG))
        heard.first_tokens(1)
        loop.call_soon_threadsafe(time.sleep, 1.5)
        assert heard.ends(1)["unread"].finish == "length"
        assert process.restarts == 0


def test_a_loop_that_has_ended_hinders_nobody(loop: Loop) -> None:
    heard = Listener()
    process = EngineProcess(config(), None, heard).start()
    read_on(loop, process)
    process.submit(Request("left", PROMPT, LONG))
    loop.end()
    began = time.monotonic()
    process.close()
    assert time.monotonic() - began < 2.0
    assert heard.ends(1)["left"].finish == "cancelled"


def test_idle_is_not_hung(start: Start) -> None:
    heard = Listener()
    with start(config(0.3), heard) as process:
        time.sleep(1.0)
        assert process.ready
        assert process.restarts == 0


def test_requests_accepted_while_it_restarts_are_answered_and_can_be_cancelled(start: Start) -> None:
    heard = Listener()
    with start(config(), heard) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: process.state is State.RESTARTING)
        process.submit(Request("early", PROMPT, Sampling(max_tokens=2)))
        process.submit(Request("unwanted", PROMPT, Sampling(max_tokens=2)))
        process.cancel("unwanted")
        ends = heard.ends(2)
        assert (ends["early"].finish, ends["unwanted"].finish) == ("length", "cancelled")


def test_ctrl_c_and_sigterm_do_not_reach_the_engine(start: Start) -> None:
    heard = Listener()
    with start(config(), heard) as process:
        process.submit(Request("survivor", PROMPT, LONG))
        heard.first_tokens(1)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
        end = heard.ends(1)["survivor"]
        assert end.finish in ("length", "stop")
        assert process.restarts == 0


def test_close_ends_what_is_in_flight_and_leaves_no_process(start: Start) -> None:
    heard = Listener()
    process = start(config(), heard)
    pid = process.pid
    process.submit(Request("left", PROMPT, LONG))
    process.close()
    process.close()
    assert heard.ends(1)["left"].finish == "cancelled"
    assert process.state is State.CLOSED
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ServeError, match="closed"):
        process.submit(Request("late", PROMPT))


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no engine 'fak'"):
        EngineProcess(EngineConfig(name="fak"), None, Listener()).start()
    broken = Bundle(tmp_path, "model")
    with pytest.raises(ModelError):
        EngineProcess(EngineConfig(name="transformers"), broken, Listener()).start()


def test_an_engine_that_dies_while_loading_is_an_error_not_a_loop() -> None:
    with pytest.raises(ServeError, match="SIGKILL"):
        EngineProcess(config(crash_after_tokens=0), None, Listener()).start()


def test_scoring_ends_when_the_engine_dies() -> None:
    engine = ProcessEngine(None, config())
    try:
        assert engine.process.pid is not None
        os.kill(engine.process.pid, signal.SIGSTOP)  # it will not answer ...
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {engine.process.pid}"])  # ... and then it is gone
        with pytest.raises(ServeError, match="SIGKILL"):
            engine.score([(PROMPT, 1)])
        killer.wait()
    finally:
        engine.close()


def test_the_engine_dies_with_its_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from tuneloop.engines import EngineConfig, EngineProcess
        print(EngineProcess(EngineConfig(name="fake"), None, print).start().pid, flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text(), 10)


HOARDER = '''
import pathlib, subprocess, sys
from tuneloop.engines.fake import FakeEngine

class Hoarder(FakeEngine):
    """Takes 200 MiB once it has answered the first token of a prompt with the token 7: itself, or (token 8) in a process
    that it starts. (A request without a token would be given to the next process too.)"""

    name = "hoarder"
    wants, answered = set(), False

    def submit(self, request):
        super().submit(request)
        self.wants = self.wants | {7, 8} & set(request.prompt_ids)

    def poll(self, timeout_s):
        if self.answered and 7 in self.wants:
            self.kept = bytearray(200 << 20)
            self.kept[::4096] = b"x" * len(self.kept[::4096])
        if self.answered and 8 in self.wants:
            code = "import time; kept = bytearray(200 << 20); kept[::4096] = b'x' * len(kept[::4096]); time.sleep(60)"
            self.child = subprocess.Popen([sys.executable, "-c", code])
        if self.answered:
            self.wants = set()
        events = super().poll(timeout_s)
        self.answered = any(event.token_ids for event in events)
        return events
'''


@pytest.fixture
def hoarder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    """A third party's engine that can be made to take memory; its child process may hold 150 MiB."""
    pytest.importorskip("psutil", reason="pip install 'tuneloop[serve]'")
    install_engine(tmp_path, monkeypatch, "hoarder", HOARDER)
    return config(token_delay_s=0.02, context_tokens=20_000).model_copy(
        update={"name": "hoarder", "max_memory_bytes": 150 << 20}
    )


@pytest.mark.parametrize("token", [7, 8], ids=["itself", "a-child-of-it"])
def test_too_much_memory_costs_a_restart_and_a_clean_error(start: Start, hoarder: EngineConfig, token: int) -> None:
    heard = Listener()
    with start(hoarder, heard) as process:
        process.submit(Request("greedy", (9, token) * 2000, Sampling(max_tokens=4000)))
        end = heard.ends(1, 60)["greedy"]
        assert end.finish == "error"
        assert "engine.max_memory_bytes allows 150" in (end.error or "")
        wait_for(lambda: process.ready)
        process.submit(Request("modest", PROMPT, Sampling(max_tokens=2)))
        assert heard.ends(1)["modest"].finish == "length"
        assert process.restarts == 1


def test_within_the_limit_nothing_happens(start: Start, hoarder: EngineConfig) -> None:
    heard = Listener()
    with start(hoarder, heard) as process:
        process.submit(Request("long", (9,) * 200, Sampling(max_tokens=100)))
        assert heard.ends(1)["long"].finish == "length"
        assert process.restarts == 0


def test_a_limit_that_the_model_itself_breaks_is_an_error_at_the_start() -> None:
    pytest.importorskip("psutil", reason="pip install 'tuneloop[serve]'")
    small = config().model_copy(update={"max_memory_bytes": 1 << 20})
    with pytest.raises(ServeError, match=r"engine\.max_memory_bytes allows 1"):
        EngineProcess(small, None, Listener()).start()
