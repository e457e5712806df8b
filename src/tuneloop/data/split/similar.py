"""Which prompts resemble each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tuneloop.data import minhash

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def columns(prompts: pl.Series) -> dict[str, pl.Series]:
    """What ``pairs`` needs to know of each prompt."""
    return {"text": prompts}


def pairs(digests: pl.LazyFrame, at: NDArray[Any], threshold: float) -> Pairs:
    """All pairs of the rows ``at`` (ascending) whose prompts are at least ``threshold`` similar.

    Returns:
        i, j (int64 [M], positions in ``at``, i < j) and similarity (float64 [M]).
    """
    texts = digests.select("text").collect().to_series().gather(at)
    found = near_pairs(texts, threshold)
    return found["i"].to_numpy(), found["j"].to_numpy(), found["similarity"].to_numpy()


def near_pairs(texts: pl.Series, threshold: float) -> pl.DataFrame:
    """i, j (i < j), similarity: all pairs of texts that are at least that similar."""
    listed = texts.to_list()
    proposed, _ = minhash.candidates(listed, threshold)
    sets = {k: minhash.shingles(listed[k]) for k in np.unique(np.array(proposed, dtype=np.int64)).tolist()}
    found = [(i, j, s) for i, j in proposed if (s := minhash.jaccard(sets[i], sets[j])) >= threshold]
    return pl.DataFrame(found, schema={"i": pl.Int64, "j": pl.Int64, "similarity": pl.Float64}, orient="row")
