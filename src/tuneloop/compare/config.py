"""What can be set about a comparison and its gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.config import Config

Question = Literal["better", "not worse"]


class CompareConfig(Config):
    """A paired comparison and the gate on its outcome."""

    metrics: tuple[str, ...] = ()
    """Which scores to compare; the first decides, all are reported with Holm-adjusted p-values. Empty: accuracy where
    there is one, else ROUGE-L, else whatever both have."""

    tie_margin: float = Field(0.0, ge=0)
    """Two scores of an item that differ by no more than this are a tie (not for scores that are just right or wrong)."""

    min_difference: float = 0.0
    """Gate of "better": the whole interval of the difference must lie above this (0.05 is five points)."""

    non_inferiority_margin: float = Field(0.03, gt=0)
    """Gate of "not worse": the whole interval must lie above minus this. A compressed model that agrees on every one of
    n items proves a loss below 3.84 / n, so 0.03 needs about 130 items and 0.01 about 400."""

    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Two-sided error rate of tests and intervals; a gate passes wrongly with at most half of it."""

    min_n: int = Field(30, ge=1)
    """With fewer items the gate is undecided, whatever they say."""

    resamples: int = Field(10_000, ge=100)
    """Bootstrap and permutation draws for scores that are not just right or wrong."""

    seed: int = 0
    """Of those draws."""
