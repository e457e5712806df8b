from __future__ import annotations

import pytest

from tuneloop.report import words


@pytest.mark.parametrize(
    ("value", "expected"), [(0.123, "+12.3"), (-0.123, "−12.3"), (0.0, "0.0"), (-0.0001, "0.0"), (0.0001, "0.0")]
)
def test_points(value: float, expected: str) -> None:
    assert words.points(value) == expected


@pytest.mark.parametrize(("p", "expected"), [(0.0004, "p < 0.001"), (0.0525, "p = 0.052"), (1.0, "p = 1.000")])
def test_p_value(p: float, expected: str) -> None:
    assert words.p_value(p) == expected


@pytest.mark.parametrize(("s", "expected"), [(0.0421, "42 ms"), (0.0042, "4.2 ms"), (1.5, "1.50 s"), (90.0, "1.5 min")])
def test_seconds(s: float, expected: str) -> None:
    assert words.seconds(s) == expected


@pytest.mark.parametrize(("n", "expected"), [(144_811_392, "145 MB"), (2_310_000_000, "2.31 GB")])
def test_size(n: int, expected: str) -> None:
    assert words.size(n) == expected


def test_estimate() -> None:
    assert words.estimate("accuracy", {"value": 0.914, "low": 0.8651, "high": 0.946}) == "91.4 % [86.5, 94.6]"
    assert words.estimate("latency_p50_s", {"value": 0.2, "low": 0.1, "high": 1.2}) == "200 ms [100 ms, 1.20 s]"
    assert (
        words.estimate("perplexity", {"value": None, "low": None, "high": None}) == "not known [not known, not known]"
    )
