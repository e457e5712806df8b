"""Numbers of one request, small enough to check by hand."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("starlette", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.tally import Tally
from tuneloop.types import Request, TokenEvent


def tally() -> Tally:
    return Tally(Request("r", (1, 2)), accepted=10.0)


def test_times_are_counted_from_acceptance() -> None:
    found = tally()
    found.placed = 10.5
    assert found.take(TokenEvent("r", (1,)), 11.0) is None
    assert found.take(TokenEvent("r", (2, 3)), 11.5) == 0.25  # two tokens in half a second
    assert found.take(TokenEvent("r", finish="stop"), 12.0) is None
    assert (found.queue_s, found.first_token_s, found.ended, found.finish, found.tokens) == (0.5, 1.0, 12.0, "stop", 3)


def test_confidence_is_the_geometric_mean_of_the_token_probabilities() -> None:
    found = tally()
    found.take(TokenEvent("r", (1,), (math.log(0.5),)), 11.0)
    found.take(TokenEvent("r", (2,), (math.log(0.125),)), 12.0)
    assert found.confidence == pytest.approx(0.25)  # sqrt(0.5 * 0.125)


def test_an_engine_without_probabilities_gives_no_confidence() -> None:
    found = tally()
    found.take(TokenEvent("r", (1,)), 11.0)
    assert found.confidence is None


@pytest.mark.parametrize(("logprob", "confidence"), [(math.nan, 0.5), (-math.inf, 0.0), (0.1, math.sqrt(0.5))])
def test_an_engine_that_reports_nonsense_cannot_spoil_the_mean(logprob: float, confidence: float) -> None:
    found = tally()
    found.take(TokenEvent("r", (1, 2), (math.log(0.5), logprob)), 11.0)
    assert found.confidence == pytest.approx(confidence)
