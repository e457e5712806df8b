"""Mixed traffic over HTTP and gRPC against ``tuneloop serve``: memory, files, threads and series stay flat, and every request is counted.

The long one writes its figures to ``benchmarks/results`` when ``TUNELOOP_SOAK_RESULT`` is 1; ``TUNELOOP_SOAK_S`` says how
long it lasts.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("psutil", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("python_multipart", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("llguidance", reason="pip install 'tuneloop[structured]'")
pytest.importorskip("grpc_status", reason="pip install 'tuneloop[grpc]'")

from tests.faults.service import Service, Usage, service, total
from tests.faults.traffic import NO_METHOD, NO_ROUTE, Traffic
from tuneloop.serve.audit_chain import verify
from tuneloop.serve.metrics import CLIENT_LEFT, REFUSALS

KEEP_ALIVE_S, REST_S = 1.5, 2.5
"""How long connections may rest, and how long all do."""
FULL_S = 600.0
"""A shorter run is judged less strictly: one step of an allocator, some MiB, is more than what a minute could leak."""
WARM_S = 60.0
"""By then pools and caches are full, also before a run that is shortened."""
SAMPLE_S = 0.5
REQUESTS, REJECTED = "tuneloop_requests_total", "tuneloop_request_rejected_total"
SPARE_THREADS, SPARE_FILES = 4, 4
"""A pool that had not needed all of its threads yet, and what those hold open."""


@dataclass
class Course:
    """What was seen of a process: (requests answered before, usage)."""

    samples: list[tuple[int, Usage]] = field(default_factory=list)

    def bytes_per_request(self) -> float:
        """Slope of memory over requests, by least squares."""
        count = len(self.samples)
        mean_x = sum(x for x, _ in self.samples) / count
        mean_y = sum(u.memory_bytes for _, u in self.samples) / count
        above = sum((x - mean_x) * (u.memory_bytes - mean_y) for x, u in self.samples)
        return above / sum((x - mean_x) ** 2 for x, _ in self.samples)


@dataclass
class Soaked:
    """The traffic, what the processes held while it lasted, and how they rested before and after."""

    traffic: Traffic
    gateway: Course
    engine: Course
    rest: tuple[list[Usage], list[Usage]]
    series: tuple[dict[str, float], dict[str, float]]


async def soak(here: Service, warm_s: float, seconds: float) -> Soaked:
    """Warm up, rest, run, rest."""
    traffic = Traffic(here.url, here.grpc_target, here.headers)
    pids = here.pid, here.engine_pid
    courses = Course(), Course()

    async def sample() -> None:
        while True:
            for course, pid in zip(courses, pids, strict=True):
                course.samples.append((traffic.requests, await asyncio.to_thread(Usage.of, pid)))
            await asyncio.sleep(SAMPLE_S)

    async def rested() -> tuple[list[Usage], dict[str, float]]:
        await asyncio.sleep(REST_S)
        series = await asyncio.to_thread(here.metrics)
        traffic.sent["/metrics", 200] += 1
        await asyncio.sleep(0.5)
        return [Usage.of(pid) for pid in pids], series

    await traffic.run(warm_s)
    before = await rested()
    sampling = asyncio.create_task(sample())
    await traffic.run(seconds)
    sampling.cancel()
    after = await rested()
    assert here.engine_pid == pids[1], "the engine was started again"
    return Soaked(traffic, *courses, (before[0], after[0]), (before[1], after[1]))


def config(engine: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "engine": {"max_running": 4} | engine,
        "grpc_port": 0,
        "max_queue": 12,
        "max_tokens": 64,
        "audit": {"path": str(folder / "audit.jsonl")},
        "filters": {"personal_data": {"input": "mask", "output": "mask"}},
        "shield": {"keep_alive_s": KEEP_ALIVE_S},
        "limits": {"requests_per_minute": 1_000_000},
    }


def series_name(found: str) -> str:
    return found.partition("{")[0]


def check(seen: Soaked, audit: Path, limit_bytes: float) -> None:
    sent, (_, series) = seen.traffic.sent, seen.series
    counted = {(route, status): total(series, REQUESTS, route=route, code=str(status)) for route, status in sent}
    own = sent - Counter({("/metrics", 200): 1})  # the last scrape is counted after it was written
    assert {k: v for k, v in counted.items() if v != own[k]} == {}, f"sent: {dict(sent)}"
    assert total(series, REQUESTS) == own.total()

    ended = {
        f: total(series, "tuneloop_request_success_total", finished_reason=f) for f in ("stop", "length", "cancelled")
    }
    # Lines of batches make room for others and are asked again: those are more than anybody has received.
    assert ended["stop"] + ended["length"] >= seen.traffic.finished + seen.traffic.batch_lines
    assert ended["cancelled"] >= seen.traffic.left
    assert total(series, "tuneloop_errors_total") == 0
    assert total(series, "tuneloop_engine_restarts_total") == 0

    told = [row for row in map(json.loads, audit.read_text().splitlines()) if "request_id" in row]
    public = sent["/readyz", 200]
    assert sum(not row["route"].startswith("call ") for row in told) == sent.total() - public
    assert Counter(finish for row in told for finish in row["finish"]) == +Counter(ended)
    verify([audit])

    # A status that a route had not given before, and a reason that none had: born late, and no more of them than there are.
    assert {series_name(found) for found in seen.series[1].keys() - seen.series[0].keys()} <= {REQUESTS, REJECTED}
    born = Counter(map(series_name, seen.series[1]))
    assert born[REQUESTS] <= len(sent)
    assert born[REJECTED] <= len(REFUSALS) + len({status for _, status in sent})
    assert total(series, REJECTED) == sum(count for (_, status), count in sent.items() if 400 <= status < CLIENT_LEFT)
    for before, after in zip(*seen.rest, strict=True):
        assert after.files <= before.files + SPARE_FILES
        assert after.threads <= before.threads + SPARE_THREADS
    assert seen.gateway.bytes_per_request() < limit_bytes
    assert seen.engine.bytes_per_request() < limit_bytes


def test_twenty_seconds_of_everything_leave_nothing_behind(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Too short for a small leak; 16 KiB a request is what keeping a few whole requests would be."""
    fake = {"name": "fake", "fake": {"token_delay_s": 0.005, "answer_ids": [70, 71, 72, 73] * 400}}
    with service(tiny("llama", "chatml"), tmp_path, config(fake, tmp_path)) as here:
        seen = asyncio.run(soak(here, 6.0, 14.0))
        assert here.process.poll() is None
    assert {s for _, s in seen.traffic.sent} == {200, 400, 401, 404, 429, 499}
    assert seen.traffic.sent[NO_ROUTE, 401] > 0
    assert seen.traffic.sent[NO_METHOD, 401] > 0
    check(seen, tmp_path / "audit.jsonl", 16384)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_minutes_of_everything_leave_nothing_behind(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Over the transformers engine with a tiny model."""
    seconds = float(os.environ.get("TUNELOOP_SOAK_S", FULL_S))
    engine = {"name": "transformers", "threads": 1}
    with service(tiny("llama", "chatml"), tmp_path, config(engine, tmp_path)) as here:
        seen = asyncio.run(soak(here, WARM_S, seconds))
    if os.environ.get("TUNELOOP_SOAK_RESULT") == "1":
        write(seen, seconds)
    check(seen, tmp_path / "audit.jsonl", 256 if seconds >= FULL_S else 4096)


def write(seen: Soaked, seconds: float) -> None:
    """Put the figures among the results of the benchmarks."""
    sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
    import harness

    import tuneloop

    lines = []
    requests = seen.gateway.samples[-1][0] - seen.gateway.samples[0][0]
    for number, (arm, course) in enumerate((("gateway", seen.gateway), ("engine", seen.engine))):
        before, after = (rest[number] for rest in seen.rest)
        for metric, unit, values in (
            ("private memory while it lasted", "MiB", [u.memory_bytes / 2**20 for _, u in course.samples]),
            ("growth of memory", "bytes/request", [course.bytes_per_request()]),
            ("growth of memory at rest", "KiB", [(after.memory_bytes - before.memory_bytes) / 1024]),
            ("growth of open files at rest", "files", [after.files - before.files]),
            ("growth of threads at rest", "threads", [after.threads - before.threads]),
        ):
            lines.append(
                harness.line(
                    "soak", f"{seconds:g} s of mixed traffic, {requests} requests", arm, metric, unit, values,
                    command="TUNELOOP_SOAK_RESULT=1 make test-slow", versions={"tuneloop": tuneloop.__version__},
                )
            )  # fmt: skip
    harness.write("soak", lines)
