"""Which prompts resemble each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tuneloop.data.minhash import Shingling, Sketches, candidates, compare, digest

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
_SHINGLING = Shingling()


def columns(prompts: pl.Series) -> dict[str, pl.Series]:
    """What ``pairs`` needs to know of each prompt."""
    return digest(prompts, _SHINGLING).to_dict()


def pairs(digests: pl.LazyFrame, at: NDArray[Any], threshold: float) -> Pairs:
    """All pairs of the rows ``at`` (ascending) whose prompts are at least ``threshold`` similar.

    Sketches are held for all of these rows, texts only for those that may have a partner.

    Returns:
        i, j (int64 [M], positions in ``at``, i < j) and similarity (float64 [M]).
    """
    sketches = digests.select("shingle", "sketch").collect()[at]
    found = candidates(Sketches.read(sketches.lazy()), threshold)
    del sketches
    rows = np.unique(np.concatenate([found.i, found.j]))
    texts = digests.filter(pl.col("at").is_in(at[rows].tolist())).select("text").collect().to_series()
    i, j = np.searchsorted(rows, found.i), np.searchsorted(rows, found.j)
    compared = pl.DataFrame({"i": found.i, "j": found.j, "similarity": compare(texts, _SHINGLING)(i, j, found.kind)})
    similar = (
        compared.filter(pl.col("similarity") >= threshold)
        .group_by("i", "j", maintain_order=True)
        .agg(pl.col("similarity").max())
    )
    return similar["i"].to_numpy(), similar["j"].to_numpy(), similar["similarity"].to_numpy()
