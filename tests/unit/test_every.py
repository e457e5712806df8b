from __future__ import annotations

import pytest

from tuneloop.every import Every


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("tuneloop.every.time.monotonic", lambda: now[0])
    return now


def test_it_is_due_at_first_and_then_once_in_so_many_seconds(clock: list[float]) -> None:
    every, seen = Every(5.0), []
    for clock[0] in (100.0, 104.9, 105.0, 109.0, 120.0, 124.9):
        seen.append(every.due())
    assert seen == [True, False, True, False, True, False]  # what was missed is not made up for


def test_with_0_it_is_always_due(clock: list[float]) -> None:
    every = Every(0.0)
    assert all(every.due() for _ in range(3))
