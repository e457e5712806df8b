"""Similarities of many pairs are those of the plain sets."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from tuneloop.data.minhash import Shingling, compare, exact, jaccard, shingles
from tuneloop.data.minhash.shingles import CHARACTERS, WORDS


def texts(n: int) -> list[str]:
    rng = random.Random(2)
    words = ["card", "卡", "lost", "a", "refund?", "账户余额", "-", "fee"]
    return ["", " ", *(" ".join(rng.choices(words, k=rng.randrange(1, 25))) for _ in range(n))]


@pytest.mark.parametrize("pairs_a_part", [3, 2_048])
@pytest.mark.parametrize("size", [0, 2])
def test_similarities_are_exact(pairs_a_part: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_PAIRS_A_PART", pairs_a_part)
    rows = texts(40)
    i, j = (grid.ravel() for grid in np.meshgrid(np.arange(len(rows)), np.arange(len(rows))))
    kind = ((i + j) % 2).astype(np.uint8)
    found = compare(pl.Series(rows), Shingling("words", size))(i, j, kind)
    plain = [
        jaccard(shingles(rows[a], k, size), shingles(rows[b], k, size))
        for a, b, k in zip(i.tolist(), j.tolist(), kind.tolist(), strict=True)
    ]
    assert found.tolist() == plain


def test_no_pairs_have_no_similarities() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert len(compare(pl.Series(["a"]), Shingling())(none, none, none.astype(np.uint8))) == 0


def test_ways_of_comparing_differ() -> None:
    rows = pl.Series(["lost my card", "lost, my card"])
    zero, one = np.array([0, 0]), np.array([1, 1])
    found = compare(rows, Shingling())(zero, one, np.array([CHARACTERS, WORDS], dtype=np.uint8))
    # characters: "lost m", "ost my" ... 8 shingles, 9 shingles, the 4 of " my card" shared; words: the same three
    assert found.tolist() == [pytest.approx(4 / 13), 1.0]
