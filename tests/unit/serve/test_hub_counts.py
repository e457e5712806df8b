"""The hub's own numbers: who has a place, how long the others waited, and how each request ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.engines import REFUSED, Capabilities
from tuneloop.serve import hub as hub_module
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.hub import Hub
from tuneloop.serve.metrics import Metrics
from tuneloop.types import Context, Request, TokenEvent


class Process:
    """What the hub needs of an engine process."""

    ready = True
    capabilities = Capabilities(max_running=2)

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def submit(self, request: Request) -> None: ...

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


class Bench:
    """A hub on a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(hub_module.time, "monotonic", lambda: self.now)
        self.metrics, self.process = Metrics(Context("m", "1", "default", "Q8_0")), Process()
        self.hub = Hub(self.process, self.metrics, 2)  # type: ignore[arg-type]

    def open(self, *ids: str) -> None:
        self.hub.open([Request(i, (1, 2, 3)) for i in ids])

    def event(self, *events: TokenEvent) -> None:
        self.hub._dispatch(list(events))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, self.metrics.labels | labels)

    def ended(self, finish: str) -> float | None:
        return self.value("tuneloop_request_success_total", finished_reason=finish)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_first_have_a_place_the_rest_wait_and_move_up_in_order(bench: Bench) -> None:
    bench.open("a", "b")
    bench.open("c", "d")
    assert (bench.hub.running, bench.hub.waiting) == (2, 2)
    bench.now += 3
    bench.event(TokenEvent("b", (7,), finish="stop"))
    assert (bench.hub.running, bench.hub.waiting) == (2, 1)
    assert bench.value("tuneloop_request_queue_time_seconds_count") == 3
    assert bench.value("tuneloop_request_queue_time_seconds_sum") == 3.0  # a and b at once, c after 3 s


def test_one_that_leaves_the_queue_has_no_queue_time(bench: Bench) -> None:
    bench.open("a", "b", "c")
    bench.hub.leave("c")
    bench.hub.leave("a")
    assert (bench.hub.running, bench.hub.waiting) == (1, 0)
    assert bench.value("tuneloop_request_queue_time_seconds_count") == 2
    assert bench.process.cancelled == ["c", "a"]


def test_an_answer_that_its_reader_ends_counts_with_the_readers_reason(bench: Bench) -> None:
    bench.open("a")
    bench.event(TokenEvent("a", (7,)))
    bench.now += 2
    bench.hub.leave("a", "stop")
    assert (bench.ended("stop"), bench.ended("cancelled")) == (1, 0)
    assert bench.value("tuneloop_e2e_request_latency_seconds_sum") == 2.0
    assert bench.process.cancelled == ["a"]


def test_a_client_that_leaves_counts_as_cancelled_and_not_as_a_latency(bench: Bench) -> None:
    bench.open("a")
    bench.hub.leave("a")
    assert bench.ended("cancelled") == 1
    assert bench.value("model_latency_seconds_count") == 0


def test_an_engines_failure_is_an_error_and_no_success(bench: Bench) -> None:
    bench.open("a")
    bench.event(TokenEvent("a", finish="error", error="it died"))
    bench.hub.leave("a")
    assert bench.value("tuneloop_errors_total", reason="engine") == 1
    assert sum(bench.ended(f) or 0 for f in ("stop", "length", "cancelled", "tool_calls", "content_filter")) == 0


def test_a_schema_that_the_engine_refuses_is_no_error_of_ours(bench: Bench) -> None:
    bench.open("a")
    bench.event(TokenEvent("a", finish="error", error=f"{REFUSED}too deep"))
    bench.hub.leave("a")
    assert bench.value("tuneloop_errors_total", reason="engine") == 0


def test_retry_after_is_when_those_in_front_are_done_not_twice_that(bench: Bench) -> None:
    """Two places are taken for 10 s each and two requests always wait: the four in front are done in 20 s."""
    line = [f"r{i}" for i in range(4)]
    bench.open(*line)
    for i in range(4, 204, 2):
        bench.now += 10
        done, line = line[:2], [*line[2:], f"r{i}", f"r{i + 1}"]
        for name in done:
            bench.event(TokenEvent(name, (7,), finish="length"))
            bench.hub.leave(name, "length")
        bench.open(*line[2:])
    with pytest.raises(ApiError) as refused:
        bench.open("late")
    assert (refused.value.headers or {})["Retry-After"] == "20"


def test_leaving_twice_counts_once(bench: Bench) -> None:
    bench.open("a")
    bench.event(TokenEvent("a", (7,), finish="length"))
    bench.hub.leave("a", "length")
    bench.hub.leave("a")
    assert bench.ended("length") == 1
    assert bench.process.cancelled == []


def test_the_latency_ends_with_the_engines_last_token_not_with_a_slow_reader(bench: Bench) -> None:
    bench.open("a")
    bench.now += 1
    bench.event(TokenEvent("a", (7,), finish="stop"))
    bench.now += 50
    bench.hub.leave("a", "stop")
    assert bench.value("tuneloop_e2e_request_latency_seconds_sum") == 1.0


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda b: setattr(b.hub, "draining", True), "draining"),
        (lambda b: setattr(b.process, "ready", False), "engine_not_ready"),
        (lambda b: b.open("w", "x", "y", "z"), "queue_full"),
    ],
)
def test_what_is_refused_leaves_no_trace(bench: Bench, spoil: Callable[[Bench], None], code: str) -> None:
    spoil(bench)
    held = bench.hub.running, bench.hub.waiting
    with pytest.raises(ApiError) as refused:
        bench.open("late")
    assert (refused.value.code, refused.value.headers is not None) == (code, True)
    assert (bench.hub.running, bench.hub.waiting) == held


def test_events_reach_their_stream(bench: Bench) -> None:
    async def ask() -> TokenEvent:
        stream = bench.hub.open([Request("a", (1,))])
        bench.event(TokenEvent("a", (7,)))
        return await asyncio.wait_for(stream.events.get(), 1)

    assert asyncio.run(ask()).token_ids == (7,)


def test_tokens_that_come_in_a_piece_count_like_tokens_that_come_alone(bench: Bench) -> None:
    """First token, one 0.02 s later, then four within 0.04 s: five gaps, 0.06 s in all."""
    bench.open("a")
    bench.event(TokenEvent("a", (1,)))
    bench.now += 0.02
    bench.event(TokenEvent("a", (2,)))
    bench.now += 0.04
    bench.event(TokenEvent("a", (3, 4, 5, 6), finish="length"))
    assert bench.value("tuneloop_inter_token_latency_seconds_count") == 5
    assert bench.value("tuneloop_inter_token_latency_seconds_sum") == pytest.approx(0.06)
    assert bench.value("tuneloop_generation_tokens_total") == 6
