"""SIGTERM under load: every accepted request gets its whole answer, new ones are turned away, and there is a deadline."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import waiter
from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running  # noqa: E402

wait_for = waiter(20.0)
ASK = [{"role": "user", "content": "I lost my card"}]
TOKENS = 60


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


class Service:
    """``serve.run`` in a process of its own; its standard error is a pipe, so its log is JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert process.stdout is not None
        said = process.stdout.readline() + process.stdout.readline()
        key = re.search(r"tl-[\w-]{43}", said)
        url = re.search(r"http://[\d.]+:\d+", said)
        assert key is not None
        assert url is not None
        self.url, self.headers = url.group(), {"Authorization": f"Bearer {key.group()}"}

    lines: list[str]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def stream(self, tokens: int = TOKENS) -> list[str]:
        """The data of a whole stream."""
        body = {"messages": ASK, "max_tokens": tokens, "stream": True}
        with httpx.stream(
            "POST", f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=60, trust_env=False
        ) as reply:
            assert reply.status_code == 200
            return [line.removeprefix("data: ") for line in reply.iter_lines() if line]

    def accepted(self) -> int:
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, trust_env=False).text
        return sum(
            int(float(n))
            for n in re.findall(r"^tuneloop_num_requests_(?:running|waiting)\{.*\} (\S+)", text, re.MULTILINE)
        )

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Exit code, and the log."""
        code = self.process.wait(60)
        self._reader.join()
        return code, [json.loads(line) for line in self.lines]


@contextmanager
def service(bundle: Bundle, home: Path, *, drain_timeout_s: float, delay_s: float) -> Iterator[Service]:
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from tuneloop import serve
        from tuneloop.engines import EngineConfig, FakeConfig
        from tuneloop.errors import TuneloopError
        fake = FakeConfig(token_delay_s={delay_s}, answer_ids=(70,) * 4000)
        engine = EngineConfig(name="fake", max_running=4, fake=fake)
        try:
            serve.run(
                Path({str(bundle.path)!r}), serve.ServeConfig(engine=engine, port=0, drain_timeout_s={drain_timeout_s})
            )
        except TuneloopError as error:
            sys.exit(error.exit_code)
        """
    )
    env = os.environ | {"TUNELOOP_HOME": str(home)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script], text=True, env=env, **pipes)
    try:
        yield Service(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def refuses(url: str) -> bool:
    """No connection, or a 503 that says when to come again."""
    try:
        reply = httpx.get(f"{url}/readyz", trust_env=False)
    except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
        return True
    return bool(reply.status_code == 503)


def test_streams_in_flight_and_in_the_queue_are_finished_then_it_exits_with_0(bundle: Bundle, tmp_path: Path) -> None:
    with service(bundle, tmp_path, drain_timeout_s=60, delay_s=0.02) as site, ThreadPoolExecutor(12) as pool:
        streams = [pool.submit(site.stream) for _ in range(12)]  # four run, eight wait: 3.6 s
        wait_for(lambda: site.accepted() == 12)
        site.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(site.url))
        assert not any(s.done() for s in streams[8:]), "the drain must be seen while requests run"
        heard = [s.result() for s in streams]
        code, log = site.end()
    assert code == 0
    for data in heard:
        assert data[-1] == "[DONE]"
        finish = [json.loads(d)["choices"][0]["finish_reason"] for d in data[:-1]]
        assert finish[-1] == "length"
    said = [row for row in log if row["event"] == "request" and row["route"] == "/v1/chat/completions"]
    assert [(row["status"], row["completion_tokens"], row["finish"]) for row in said] == [
        (200, TOKENS, ["length"])
    ] * 12
    assert any("draining" in row.get("message", "") for row in log)


def test_what_outlasts_the_deadline_is_cut_visibly_and_the_exit_code_says_so(bundle: Bundle, tmp_path: Path) -> None:
    with service(bundle, tmp_path, drain_timeout_s=1, delay_s=0.05) as site, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(site.stream, 3000)
        wait_for(lambda: site.accepted() == 1)
        asked = time.monotonic()
        site.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):  # never the end of a whole answer
            stream.result()
        code, _ = site.end()
    assert code == 7
    assert time.monotonic() - asked < 15


def test_while_it_drains_new_requests_get_503_with_retry_after_and_old_ones_their_answer(bundle: Bundle) -> None:
    engine = EngineConfig(name="fake", max_running=2, fake=FakeConfig(token_delay_s=0.02, answer_ids=(70,) * 400))
    with running(ServeConfig(engine=engine), bundle) as (gateway, url, key), ThreadPoolExecutor(1) as pool:

        def ask(tokens: int) -> Any:
            body = {"messages": ASK, "max_tokens": tokens}
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30, trust_env=False)

        old = pool.submit(ask, 50)
        wait_for(lambda: gateway.process.in_flight == 1)
        gateway.draining = True
        new, ready = ask(1), httpx.get(f"{url}/readyz", trust_env=False)
        assert (new.status_code, new.json()["error"]["code"]) == (503, "draining")
        assert int(new.headers["retry-after"]) >= 1
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert old.result().json()["usage"]["completion_tokens"] == 50
