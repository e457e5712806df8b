"""The arithmetic of confident learning, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tuneloop.data.confident import Confidence, cutoff, estimated_errors

PROBABILITIES = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.4, 0.6], [0.3, 0.7]])
LABELS = np.array([0, 0, 0, 1, 1, 1])
"""Thresholds: class 0 (0.9 + 0.7 + 0.2) / 3 = 0.6; class 1 (0.9 + 0.6 + 0.7) / 3 = 0.733. Row 2 reaches class 1's."""


def test_errors_are_rows_that_reach_the_threshold_of_another_class() -> None:
    assert estimated_errors(PROBABILITIES, LABELS) == 1


def test_a_row_that_reaches_no_threshold_is_no_error() -> None:
    assert estimated_errors(np.array([[0.5, 0.5], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]), np.array([0, 0, 1, 1])) == 0


def test_the_cutoff_lets_as_many_rows_through_as_errors_are_estimated() -> None:
    limit = cutoff(PROBABILITIES, LABELS)
    found = Confidence.of(PROBABILITIES, LABELS)
    assert limit == pytest.approx(0.2)
    assert ((found.best != LABELS) & (found.given <= limit)).sum() == 1


def test_without_errors_nothing_is_below_the_cutoff() -> None:
    assert cutoff(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([0, 1])) < 0
