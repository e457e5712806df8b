"""Which prompts resemble each other: sketched part by part, compared where sketches agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tuneloop.data import minhash

Array = NDArray[Any]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]

_SHINGLING = minhash.Shingling()
_PAIRS_A_LOT = 500_000
"""So many pairs are compared at a time: at most twice as many texts are in memory."""
_ROWS_A_MOVE = 100_000


def columns(prompts: pl.Series) -> dict[str, pl.Series]:
    """What ``pairs`` needs to know of each prompt."""
    return minhash.digest(prompts, _SHINGLING).to_dict()


def pairs(digests: pl.LazyFrame, at: NDArray[Any], threshold: float) -> Pairs:
    """All pairs of the rows ``at`` (ascending) whose prompts are at least ``threshold`` similar.

    Returns:
        i, j (int64 [M], positions in ``at``, i < j) and similarity (float64 [M]).
    """
    proposed = minhash.candidates(_only(minhash.Sketches.read(digests), at), threshold)
    similarity = np.zeros(len(proposed.i))
    for start in range(0, len(similarity), _PAIRS_A_LOT):
        lot = slice(start, start + _PAIRS_A_LOT)
        similarity[lot] = _similarity(digests, at, proposed.take(np.arange(len(proposed.i))[lot]))
    found = pl.DataFrame({"j": proposed.j, "i": proposed.i, "s": similarity}).filter(pl.col("s") >= threshold)
    best = found.group_by("j", "i", maintain_order=True).agg(pl.col("s").max())
    return best["i"].to_numpy(), best["j"].to_numpy(), best["s"].to_numpy()


def _only(sketches: minhash.Sketches, at: Array) -> minhash.Sketches:
    """The sketches of some rows, numbered anew; moved to the front in place, for the matrix is the largest thing there."""
    position = np.full(int(sketches.row[-1]) + 1 if len(sketches.row) else 0, -1, dtype=np.int64)
    position[at] = np.arange(len(at))
    kept = np.flatnonzero(position[sketches.row] >= 0)
    if len(kept) == len(sketches.row):
        return sketches
    for start in range(0, len(kept), _ROWS_A_MOVE):
        moved = kept[start : start + _ROWS_A_MOVE]
        sketches.matrix[start : start + len(moved)] = sketches.matrix[moved]
    return minhash.Sketches(sketches.matrix[: len(kept)], sketches.kind[kept], position[sketches.row[kept]])


def _similarity(digests: pl.LazyFrame, at: Array, lot: minhash.Candidates) -> Array:
    rows, local = np.unique(np.concatenate([lot.i, lot.j]), return_inverse=True)
    wanted = pl.DataFrame({"at": at[rows].astype(np.int64)}).lazy()
    texts = digests.select("at", "text").join(wanted, on="at", how="semi").collect().sort("at")["text"]
    return minhash.compare(texts, _SHINGLING)(local[: len(lot.i)], local[len(lot.i) :], lot.kind)
