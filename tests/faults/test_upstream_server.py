"""A server that the ``upstream`` engine starts: awaited, restarted when it dies, gone with all its processes afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.llama_server import free_port
from tests.waiting import waiter
from tuneloop.engines import EngineConfig, ProcessEngine, UpstreamConfig, create, generate
from tuneloop.engines.upstream import DYING_S
from tuneloop.errors import ConfigError, ServeError
from tuneloop.types import Request, Sampling, TokenEvent

pytest.importorskip("aiohttp", reason="pip install 'tuneloop[serve]'")

ROOT = Path(__file__).parent.parent.parent
wait_for = waiter(30.0, every_s=0.02)
PROMPT = tuple(range(10, 40))

SERVER = f"""
import os, pathlib, subprocess, sys, time
sys.path.insert(0, {str(ROOT)!r})
from tests.vllm_like import VllmLike
from tuneloop.engines import EngineConfig, FakeConfig, create
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path(sys.argv[2]).open("a").write(f"{{os.getpid()}} {{worker.pid}}\\n")
breaks = pathlib.Path(sys.argv[2]).with_name("break")

def broken(chunk):
    try:
        breaks.unlink()  # by one thread only
    except FileNotFoundError:
        return None
    return b""

server = VllmLike(create(EngineConfig(name="fake", fake=FakeConfig(token_delay_s=0.01)), None), port=int(sys.argv[1]))
server.broken = broken
time.sleep(300)
"""


class Own:
    """A server's script, where it will listen, and the processes that it has had."""

    def __init__(self, folder: Path) -> None:
        self.script, self.pids = folder / "server.py", folder / "pids"
        self.script.write_text(SERVER)
        self.port = free_port()

    def config(self, *command: str, **more: object) -> EngineConfig:
        words = command or (sys.executable, str(self.script), "{port}", str(self.pids))
        upstream = UpstreamConfig(url=f"http://127.0.0.1:{self.port}", command=words)
        return EngineConfig(name="upstream", upstream=upstream, **more)  # type: ignore[arg-type]

    def lives(self) -> list[list[int]]:
        """Server and worker of each start."""
        return [[int(n) for n in line.split()] for line in self.pids.read_text().splitlines()]


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def gone(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_it_is_started_answers_and_is_gone_with_its_workers_after_close(own: Own) -> None:
    engine = create(own.config(), None)
    try:
        answer = generate(engine, [Request("r", PROMPT, Sampling(4))])[0]
    finally:
        engine.close()
    assert answer.token_ids == PROMPT[:4]
    (pids,) = own.lives()
    assert len(pids) == 2
    wait_for(lambda: all(map(gone, pids)))


def test_when_it_dies_it_is_started_again_and_a_request_without_a_token_is_tried_once_more(own: Own) -> None:
    engine = ProcessEngine(None, own.config())
    try:
        os.kill(own.lives()[0][0], signal.SIGKILL)
        answer = generate(engine, [Request("r", PROMPT, Sampling(4))])[0]
        assert (answer.finish, answer.token_ids) == ("length", PROMPT[:4])
        assert engine.process.restarts == 1
        assert "has ended (exit code 137)" in (engine.process.last_failure or "")
        wait_for(lambda: all(map(gone, own.lives()[0])))
    finally:
        engine.close()


def test_a_connection_that_breaks_holds_up_no_other(own: Own) -> None:
    engine = create(own.config(), None)
    try:
        for name in "ab":
            engine.submit(Request(name, PROMPT * 30, Sampling(800)))
        ends: dict[str, TokenEvent] = {}
        gaps, last = [], time.monotonic()
        while len(ends) < 2:
            events = engine.poll(0.05)
            if any(e.token_ids for e in events):
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
                if len(gaps) == 20:
                    own.pids.with_name("break").touch()
            ends |= {e.request_id: e for e in events if e.finish}
        assert sorted(e.finish or "" for e in ends.values()) == ["error", "length"]
        assert max(gaps[20:]) < DYING_S - 1, "the one that goes on waits for nobody"
        assert len(own.lives()) == 1
    finally:
        engine.close()


def test_what_had_begun_when_it_died_ends_with_an_error_that_says_so(own: Own) -> None:
    engine = ProcessEngine(None, own.config())
    try:
        engine.submit(Request("r", PROMPT * 30, Sampling(800)))
        events = engine.poll(10.0)
        assert events[0].token_ids
        os.kill(own.lives()[0][0], signal.SIGKILL)
        while not events[-1].finish:
            events = engine.poll(10.0)
        assert events[-1].finish == "error"
        assert "the server that was started has ended" in (events[-1].error or "")
    finally:
        engine.close()


def test_nothing_of_it_outlives_a_killed_engine(own: Own) -> None:
    engine = ProcessEngine(None, own.config())
    try:
        first = own.lives()[0]
        assert engine.process.pid is not None
        os.kill(engine.process.pid, signal.SIGKILL)
        wait_for(lambda: all(map(gone, first)))
        wait_for(lambda: engine.process.ready)
        assert generate(engine, [Request("r", PROMPT, Sampling(2))])[0].finish == "length"
    finally:
        engine.close()
    wait_for(lambda: all(gone(pid) for life in own.lives() for pid in life))


def test_nothing_of_it_outlives_the_whole_program(own: Own, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import time
        from tuneloop.engines import EngineConfig, ProcessEngine
        engine = ProcessEngine(None, EngineConfig.model_validate_json({own.config().model_dump_json()!r}))
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.kill()
    wait_for(lambda: all(map(gone, own.lives()[0])))


def test_a_command_that_ends_at_once_is_an_error_with_its_exit_code(own: Own) -> None:
    with pytest.raises(ServeError, match="exit code 3"):
        create(own.config(sys.executable, "-c", "raise SystemExit(3)"), None)


def test_a_command_that_is_not_there_is_an_error(own: Own, tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="exit code 127"):
        create(own.config(str(tmp_path / "no-such-vllm")), None)


def test_a_server_that_never_becomes_ready_is_given_up_and_ended(own: Own) -> None:
    waits = own.config(sys.executable, "-c", "import time; time.sleep(300)", start_timeout_s=1.0)
    with pytest.raises(ServeError, match="not ready after 1 s"):
        create(waits, None)


def test_an_address_in_use_is_an_error_before_anything_is_started(own: Own) -> None:
    import socket

    with socket.create_server(("127.0.0.1", own.port)), pytest.raises(ConfigError, match="something else listens"):
        create(own.config(), None)
    assert not own.pids.exists()


def test_a_command_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs engine\.upstream\.url"):
        UpstreamConfig(command=("vllm", "serve"))
