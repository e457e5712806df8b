"""Limits per minute, on a clock that the test turns."""

from __future__ import annotations

from tuneloop.data.makers.pace import Pace, Ticket


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, clock: Clock, tokens: list[int]) -> list[float]:
    """When each request may start, seconds from the beginning."""
    starts = []
    for wanted in tokens:
        while not isinstance(found := pace.enter(wanted), Ticket):
            assert found > 0
            clock.now += found
        starts.append(clock.now - 1000.0)
    return starts


def test_no_limit_no_wait() -> None:
    clock = Clock()
    assert run(Pace(None, None, clock), clock, [10**9] * 3) == [0, 0, 0]


def test_requests_per_minute_hold_over_any_minute() -> None:
    clock = Clock()
    starts = run(Pace(2, None, clock), clock, [1] * 6)
    assert starts == [0, 0, 60, 60, 120, 120]


def test_tokens_per_minute() -> None:
    clock = Clock()
    assert run(Pace(None, 100, clock), clock, [60, 40, 1]) == [0, 0, 60]


def test_a_request_beyond_the_limit_goes_alone() -> None:
    clock = Clock()
    assert run(Pace(None, 100, clock), clock, [500, 500]) == [0, 60]


def test_what_was_really_used_counts() -> None:
    clock = Clock()
    pace = Pace(None, 100, clock)
    first = pace.enter(90)
    assert isinstance(first, Ticket)
    pace.settle(first, 20)
    assert isinstance(pace.enter(80), Ticket)
    assert pace.enter(1) == 60
