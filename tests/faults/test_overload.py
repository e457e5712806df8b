"""Ten times more requests than can be answered: some get their answer in a bounded time, the others a 429, nobody a 5xx."""

from __future__ import annotations

import asyncio
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("psutil", reason="pip install 'tuneloop[serve]'")

from tests.faults.service import Service, Usage, said, service, total  # noqa: E402

PLACES, QUEUE, TOKENS, STEP_S = 4, 8, 20, 0.04
OVERLOAD, LASTS_S = 10, 6.0
SLACK = 1.5
"""The bound is for an engine that is as fast under load as alone; here the engine, the gateway and those who ask share
two cores."""
FLAT_BYTES = 4 << 20
"""What memory may grow by in the second half."""
BODY = {"prompt": "I lost my card", "max_tokens": TOKENS}


@dataclass(frozen=True)
class Span:
    """Something that took from one moment of the system's clock to another, in seconds."""

    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.begun

    def without(self, others: Iterable[Span]) -> float:
        """Its seconds outside of these."""
        return self.seconds - sum(max(0.0, min(self.ended, o.ended) - max(self.begun, o.begun)) for o in others)


TICKS = """
import time
while True:
    due = time.monotonic() + 0.01
    time.sleep(0.01)
    if (now := time.monotonic()) > due + 0.1:
        print(due, now, flush=True)
"""


@contextmanager
def standstills() -> Iterator[list[Span]]:
    """When the machine let a process that only sleeps wait for its turn by more than 0.1 s; filled at the end."""
    found: list[Span] = []
    with subprocess.Popen([sys.executable, "-I", "-c", TICKS], stdout=subprocess.PIPE, text=True) as ticking:
        try:
            yield found
        finally:
            ticking.kill()
            assert ticking.stdout is not None
            found += [Span(*map(float, line.split())) for line in ticking.stdout]


@dataclass
class Seen:
    """What those who asked have seen."""

    statuses: list[int] = field(default_factory=list)
    admitted_s: list[float] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    retry_after_s: list[int] = field(default_factory=list)
    health: list[Span] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)


async def ask(http: httpx.AsyncClient, seen: Seen) -> None:
    begun = time.monotonic()
    reply = await http.post("/v1/completions", json=BODY)
    seen.statuses.append(reply.status_code)
    if reply.status_code == 200:
        assert reply.json()["usage"]["completion_tokens"] == TOKENS
        seen.admitted_s.append(time.monotonic() - begun)
    else:
        seen.codes.add(said(reply))
        seen.retry_after_s.append(int(reply.headers["retry-after"]))


async def watch(http: httpx.AsyncClient, here: Service, seen: Seen) -> None:
    while True:
        begun = time.monotonic()
        assert (await http.get("/healthz")).status_code == 200
        seen.health.append(Span(begun, time.monotonic()))
        seen.usage.append(await asyncio.to_thread(Usage.of, here.pid))
        await asyncio.sleep(0.1)


async def alone(here: Service) -> float:
    """How long an answer takes while nobody else asks, in seconds: the median of three."""
    seen = Seen()
    async with client(here) as http:
        for _ in range(3):
            await ask(http, seen)
    return sorted(seen.admitted_s)[1]


async def flood(here: Service, per_s: float) -> tuple[Seen, float]:
    """Ask ``per_s`` times a second, whatever becomes of it; returns also how often it really was."""
    seen, count = Seen(), int(per_s * LASTS_S)
    async with client(here) as http, asyncio.TaskGroup() as group:
        watching = group.create_task(watch(http, here, seen))
        begun, asked = time.monotonic(), []
        for i in range(count):
            await asyncio.sleep(begun + i / per_s - time.monotonic())
            asked.append(group.create_task(ask(http, seen)))
        really = count / (time.monotonic() - begun)
        await asyncio.gather(*asked)
        watching.cancel()
    return seen, really


def client(here: Service) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=here.url, headers=here.headers, timeout=60, trust_env=False, limits=limits)


def test_ten_times_too_much_is_refused_in_time_and_the_admitted_are_served_in_time(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    fake = {"token_delay_s": STEP_S, "answer_ids": [70] * TOKENS}
    config = {"engine": {"name": "fake", "max_running": PLACES, "fake": fake}, "max_queue": QUEUE}
    with service(tiny("llama", "chatml"), tmp_path, config) as here:
        service_s = asyncio.run(alone(here))
        can_per_s = PLACES / service_s
        with standstills() as stood_still:
            seen, asked_per_s = asyncio.run(flood(here, OVERLOAD * can_per_s))
        after = asyncio.run(alone(here))
        series = here.metrics()

    bound_s = (1 + QUEUE / PLACES) * service_s * SLACK
    admitted = sorted(seen.admitted_s)
    assert asked_per_s > 0.9 * OVERLOAD * can_per_s, "those who ask were too slow to be ten times too much"
    assert set(seen.statuses) == {200, 429}
    assert seen.codes == {"queue_full"}
    assert admitted[math.ceil(0.99 * len(admitted)) - 1] <= bound_s
    assert len(admitted) > 0.6 * can_per_s * LASTS_S, "while it refuses, it must not answer less than it can"
    assert min(seen.retry_after_s) >= 1
    assert max(seen.retry_after_s) <= math.ceil(bound_s) + 1, "when the queue is empty it is time to come again"
    assert max(probe.without(stood_still) for probe in seen.health) < 1
    assert statistics.median(probe.seconds for probe in seen.health) < 0.1
    middle = len(seen.usage) // 2
    assert seen.usage[-1].memory_bytes - seen.usage[middle].memory_bytes < FLAT_BYTES
    assert after < 2 * service_s, "when it is over, it must be as fast as before"
    requests = {
        code: total(series, "tuneloop_requests_total", route="/v1/completions", code=code) for code in ("200", "429")
    }
    assert requests == {"200": len(admitted) + 6, "429": len(seen.retry_after_s)}
    assert total(series, "tuneloop_errors_total") == 0
