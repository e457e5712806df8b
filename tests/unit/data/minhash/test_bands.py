"""Candidate pairs against the plain comparison of all pairs, and against templates."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from tuneloop.data.minhash import Shingling, Sketches, bands, candidates, digest
from tuneloop.data.minhash.bands import LEADERS, NEIGHBOURS, WHOLE_BUCKET, agreement
from tuneloop.data.minhash.sketch import HASHES, plan

CHARACTERS = Shingling("characters")


def sketches(texts: list[str]) -> Sketches:
    return Sketches.read(digest(pl.Series(texts, dtype=pl.String), CHARACTERS).lazy())


def test_pairs_are_ordered_and_each_stands_once() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abc", k=9)) for _ in range(300)]
    found = candidates(sketches(texts), 0.5)
    pairs = list(zip(found.j.tolist(), found.i.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert (found.i < found.j).all()
    assert len(pairs) > 50


def test_agreement_counts_equal_hashes() -> None:
    matrix = np.random.default_rng(0).integers(0, 3, (50, HASHES), dtype=np.uint8)
    i, j = np.arange(50), np.arange(49, -1, -1)
    assert agreement(matrix, i, j).tolist() == [(matrix[a] == matrix[b]).sum() for a, b in zip(i, j, strict=True)]
    assert agreement(matrix, np.array([7]), np.array([7])).tolist() == [HASHES]


@pytest.mark.parametrize("slice_rows", [1, 3, 100])
def test_sketches_are_read_in_slices_and_put_in_their_place(slice_rows: int) -> None:
    texts = pl.Series(["short", "four " * 320, "other", "five " * 330, "last"])
    digests = digest(texts, Shingling())
    place = np.array([3, 0, 4, 2, 1])
    found = Sketches.read(digests.lazy(), place, slice_rows)
    assert found.row.tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert found.kind.tolist() == [0, 1, 0, 0, 1, 0, 0]
    in_order = digests["sketch"].gather([1, 4, 3, 0, 2])
    assert found.matrix.tobytes() == b"".join(in_order)


def test_a_giant_bucket_is_compared_in_linear_time_and_said_so() -> None:
    found = candidates(sketches(["the same boilerplate text in every row"] * 1000), 0.8)
    assert found.largest == 1000
    assert len(found.j) <= 1000 * (LEADERS + NEIGHBOURS)
    assert set(found.j.tolist()) == set(range(1, 1000))


def test_rows_with_one_beginning_are_bounded() -> None:
    n = 20_000
    prefix = "Dear customer, please find below the record of your last conversation with our service team, number "
    found = candidates(sketches([f"{prefix}{k:06}" for k in range(n)]), 0.8)
    assert found.largest > n / 2
    # the first rows of a bucket and two neighbours of each band, for every row; where buckets are whole, that many more
    assert len(found.j) < n * (LEADERS * 4 + (NEIGHBOURS + 2) * plan(0.8, n).bands)
    assert set(found.j.tolist()) == set(range(1, n))


def test_a_bucket_of_ordinary_size_is_compared_whole() -> None:
    n = WHOLE_BUCKET
    found = candidates(sketches(["the same text"] * n), 0.8)
    assert len(found.j) == n * (n - 1) // 2
    assert found.largest == 0
    assert not found.thinned


def test_more_pairs_than_there_is_room_for_are_thinned_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "PAIRS_BASE", 500)
    found = candidates(sketches(["the same text"] * 150), 0.8)
    assert found.thinned
    assert len(found.j) < 3_000
    assert set(found.j.tolist()) == set(range(1, 150))


@pytest.mark.parametrize("texts", [[], ["one"]])
def test_too_few_texts_have_no_pairs(texts: list[str]) -> None:
    assert len(candidates(sketches(texts), 0.8).j) == 0
