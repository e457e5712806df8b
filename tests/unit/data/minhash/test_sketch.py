"""Sketches estimate the similarity, and bands miss as few pairs as they promise."""

from __future__ import annotations

import random
import string

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from tuneloop.data.minhash.shingles import Shingling, jaccard, shingles
from tuneloop.data.minhash.sketch import (
    HASHES,
    MISSED,
    agreeing,
    band_columns,
    digest,
    missed,
    parts,
    plan,
    signatures,
)


def pair(rng: random.Random, length: int, share: float) -> tuple[str, str]:
    """Two random texts, the second with a new end."""
    base = "".join(rng.choices(string.ascii_lowercase + " ", k=length))
    return base, base[: int(length * share)] + "".join(
        rng.choices(string.ascii_uppercase, k=length - int(length * share))
    )


@pytest.mark.parametrize("share", [0.5, 0.85, 0.95])
def test_agreement_estimates_jaccard_without_bias(share: float) -> None:
    rng = random.Random(1)
    pairs = [pair(rng, 150, share) for _ in range(200)]
    sketches = [signatures(pl.Series(side)) for side in zip(*pairs, strict=True)]
    exact = np.array([jaccard(shingles(a), shingles(b)) for a, b in pairs])
    errors = (sketches[0] == sketches[1]).mean(axis=1) - (exact + (1 - exact) / 256)
    # each error is that of 64 coin flips: a standard deviation of at most 0.0625, and of 200 of them 0.0044
    assert abs(errors.mean()) < 4 * 0.0044
    assert errors.std() < 0.0625 * 1.2


def test_unrelated_one_shingle_texts_agree_by_chance_only() -> None:
    sketch = signatures(pl.Series([f"{k:05}" for k in range(2000)]))
    agreement = (sketch[:1000] == sketch[1000:]).mean(axis=1)
    assert agreement.mean() == pytest.approx(1 / 256, rel=0.2)
    assert agreement.max() < 0.11  # seven hashes of 64, where a quarter of one is expected


def test_a_row_compared_both_ways_has_two_sketches() -> None:
    texts = pl.Series(["a short one", "four " * 320, "words " * 900])
    assert digest(texts, Shingling())["sketch"].bin.size().to_list() == [HASHES, 2 * HASHES, HASHES]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("rows", [2, 1_000, 200_000, 5_000_000])
def test_bands_find_a_pair_at_the_threshold(threshold: float, rows: int) -> None:
    scheme = plan(threshold, rows)
    assert missed(threshold, scheme.width, scheme.bands) <= MISSED


def test_bands_are_wider_for_more_rows() -> None:
    assert plan(0.8, 1_000).width < plan(0.8, 200_000).width < plan(0.8, 5_000_000).width


@pytest.mark.parametrize(("width", "bands"), [(3, 17), (5, 46), (7, 125)])
def test_the_formula_of_missed_pairs_is_what_happens(width: int, bands: int) -> None:
    same = np.random.default_rng(0).random((40_000, HASHES)) < 0.65
    hit = np.zeros(len(same), dtype=bool)
    for band in band_columns(width, bands):
        hit |= same[:, list(band)].all(axis=1)
    expected = missed(0.65, width, bands)
    assert (~hit).mean() == pytest.approx(expected, rel=0.2)


def test_few_pairs_at_the_threshold_agree_less_than_asked() -> None:
    assert binom.cdf(agreeing(0.7) - 1, HASHES, 0.7) <= 0.0005 < binom.cdf(agreeing(0.7), HASHES, 0.7)


def test_every_hash_serves_in_a_round_of_bands() -> None:
    first = band_columns(4, HASHES // 4)
    assert sorted(column for band in first for column in band) == list(range(HASHES))


def test_parts_hold_about_the_most_and_every_row() -> None:
    assert parts(np.array([4, 4, 4, 40, 4, 4]), 10) == [(0, 2), (2, 3), (3, 5), (5, 6)]
    assert parts(np.array([], dtype=np.int64), 10) == []
