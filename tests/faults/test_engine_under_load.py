"""The engine is killed or stopped while requests run and wait: each gets its right answer or a clean error, none is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig

pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tests.faults.load import CHAT, COMPLETIONS, Outcome, Site, wait_for
from tuneloop.serve.check import running
from tuneloop.serve.observe import ObserveConfig

PLACES, REQUESTS = 4, 12
WORDS = 16
"""An answer takes several times as many steps of 6 ms: all that run have begun and none has ended when the fault comes."""


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


@contextmanager
def site(bundle: Bundle, unready_after_s: float = 20.0, **engine: Any) -> Iterator[Site]:
    known = {"name": "fake", "max_running": PLACES, "fake": FakeConfig(token_delay_s=0.006)} | engine
    config = ServeConfig(
        engine=EngineConfig(**known),
        observe=ObserveConfig(unready_after_s=unready_after_s),
        max_queue=64,
        max_tokens=1000,
    )
    with running(config, bundle) as (gateway, url, key):
        made = Site(gateway, url, key)
        with made.http:
            yield made


class Crowd:
    """REQUESTS at once, half of them streams, half of them chats, no two alike."""

    def __init__(self, site: Site) -> None:
        self.right: list[str] = []
        self._site, self._pool = site, ThreadPoolExecutor(REQUESTS)
        self._asked = []
        for i in range(REQUESTS):
            said = " ".join(f"{i}-{word}" for word in range(WORDS))
            body: dict[str, Any] = {"stream": bool(i & 1)}
            if i & 2:
                body |= {"messages": [{"role": "system", "content": said}, {"role": "user", "content": "x"}]}
                self.right.append(f"system\n{said}")  # the echo ends with the first turn
            else:
                body |= {"prompt": said}
                self.right.append(said)
            self._asked.append(self._pool.submit(site.ask, body, CHAT if i & 2 else COMPLETIONS))

    def wait_until_accepted(self) -> None:
        hub = self._site.gateway.hub
        wait_for(lambda: (hub.running, hub.waiting) == (PLACES, REQUESTS - PLACES))

    def wait_until_it_runs(self) -> None:
        """All have been accepted, and every place has made a few tokens."""
        self.wait_until_accepted()
        hub = self._site.gateway.hub
        begun = lambda: [s.tallies[r].tokens for r in hub._placed if (s := hub._streams.get(r))]  # noqa: E731
        wait_for(lambda: len(begun()) == PLACES and min(begun()) >= 3)

    def outcomes(self) -> list[Outcome]:
        with self._pool:
            return [asked.result(60) for asked in self._asked]


class Watch:
    """Looks at the readiness and keeps asking, all the time; says what it has seen."""

    def __init__(self, site: Site) -> None:
        self._site, self._over = site, threading.Event()
        self.seen: list[tuple[int, str]] = [site.ready()]
        self.asked: list[Outcome] = []
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            if (now := self._site.ready()) != self.seen[-1]:
                self.seen.append(now)
            if now[1] == "restarting":
                self.asked.append(self._site.ask({"prompt": "late"}))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize(
    ("number", "unready_after_s", "between"),
    [(signal.SIGKILL, 20.0, ["restarting"]), (signal.SIGSTOP, 0.5, ["stalled", "restarting"])],
    ids=["killed", "stopped"],
)
def test_under_load_those_that_ran_get_an_error_those_that_waited_their_answer(
    bundle: Bundle, number: signal.Signals, unready_after_s: float, between: list[str]
) -> None:
    with site(bundle, unready_after_s, stall_timeout_s=2.0) as here:
        crowd, watch = Crowd(here), Watch(here)
        crowd.wait_until_it_runs()
        os.kill(here.gateway.process.pid or 0, number)
        outcomes = crowd.outcomes()
        wait_for(lambda: here.ready() == (200, "ready"))
        time.sleep(0.1)  # for the watch to see it, too
        watch.stop()
        assert watch.seen == [(200, "ready"), *((503, status) for status in between), (200, "ready")]

        failed = [o for o in outcomes if not o.answered]
        assert len(failed) == PLACES
        assert {o.error for o in failed} == {"engine_error"}
        assert {o.status for o, body in zip(outcomes, range(REQUESTS), strict=True) if o.error and not body & 1} <= {
            500
        }
        for outcome, right in zip(outcomes, crowd.right, strict=True):
            assert right.startswith(outcome.text) if outcome.error else outcome.text == right

        assert watch.asked, "nobody asked while it was started again"
        for late in watch.asked:
            assert late.answered or (late.status, late.error) == (503, "engine_not_ready")
            assert late.answered or late.retry_after_s == 1
        answered = REQUESTS - PLACES + sum(o.answered for o in watch.asked)
        assert here.metric("tuneloop_engine_restarts_total") == 1
        assert here.metric("tuneloop_errors_total", reason="engine") == PLACES
        assert here.metric("tuneloop_request_success_total") == answered
        assert here.metric("tuneloop_num_requests_running") == here.metric("tuneloop_num_requests_waiting") == 0
        assert here.ask({"prompt": "and after it"}).text == "and after it"


def test_an_engine_that_dies_before_any_token_costs_nobody_his_answer(bundle: Bundle) -> None:
    """Stopped, it makes none; every request, running and waiting, is tried once more."""
    with site(bundle) as here:
        pid = here.gateway.process.pid or 0
        os.kill(pid, signal.SIGSTOP)
        crowd = Crowd(here)
        crowd.wait_until_accepted()
        os.kill(pid, signal.SIGKILL)
        assert [(o.status, o.error, o.text) for o in crowd.outcomes()] == [(200, "", right) for right in crowd.right]
        assert here.metric("tuneloop_engine_restarts_total") == 1
        assert here.metric("tuneloop_errors_total", reason="engine") == 0


def test_an_engine_that_always_dies_ends_every_request_with_an_error_in_time(bundle: Bundle) -> None:
    """Its first token is the warm-up's, its second one kills it."""
    with site(bundle, fake=FakeConfig(token_delay_s=0.01, crash_after_tokens=1)) as here:
        pid = here.gateway.process.pid or 0
        os.kill(pid, signal.SIGSTOP)
        crowd = Crowd(here)
        crowd.wait_until_accepted()
        os.kill(pid, signal.SIGCONT)
        begun = time.monotonic()
        assert {(o.status, o.error) for o in crowd.outcomes()} == {
            (500, "engine_error")
        }  # also those that asked for streams
        assert time.monotonic() - begun < 30
        assert here.metric("tuneloop_engine_restarts_total") == 2  # the first life and the one retry
        assert here.metric("tuneloop_errors_total", reason="engine") == REQUESTS
        assert here.http.get("/healthz").status_code == 200
