"""Rows that say almost the same: MinHash proposes pairs, the Jaccard similarity of the shingles themselves decides.

shingles    text -> set of character or word n-grams; their hashes for many texts at a time
sketch      hashes -> 64 bytes a text, and how many bands of them are needed
bands       sketches -> pairs that may be similar
exact       pairs -> their Jaccard similarity
greedy      similar pairs -> which rows are kept
"""

from __future__ import annotations

import polars as pl

from tuneloop.data.minhash.bands import Candidates, Sketches, candidates
from tuneloop.data.minhash.exact import compare
from tuneloop.data.minhash.greedy import KeepFirst
from tuneloop.data.minhash.shingles import Shingling, jaccard, shingles
from tuneloop.data.minhash.sketch import digest

__all__ = [
    "LOWEST_THRESHOLD",
    "Candidates",
    "KeepFirst",
    "Shingling",
    "Sketches",
    "candidates",
    "compare",
    "digest",
    "jaccard",
    "near_pairs",
    "shingles",
]

LOWEST_THRESHOLD = 0.1
"""Below this, sketches of 64 hashes overlook pairs."""


def near_pairs(
    texts: pl.Series | pl.DataFrame, threshold: float = 0.8, *, shingling: Shingling | None = None
) -> pl.DataFrame:
    """All pairs of texts that are at least ``threshold`` similar.

    Texts are compared as they are: give ``frame.comparable(texts)`` where letter case and spaces should not count. Of
    more than 200 rows that look alike to a sketch (a template), each is compared with the first ones and its neighbours
    only.

    Args:
        texts: Strings without nulls, or what ``digest`` made of them (with the same ``shingling``).
        threshold: Jaccard similarity of the sets of shingles, from 0.1 to 1.
        shingling: What a shingle is; default: 5 characters, or 3 words in long texts with spaces.

    Returns:
        i, j (Int64, positions, i < j) and similarity (Float64, exact), sorted by j and then i.
    """
    shingling = shingling or Shingling()
    digests = digest(texts, shingling) if isinstance(texts, pl.Series) else texts
    pairs = candidates(Sketches.read(digests.lazy()), threshold)
    similarity = compare(digests["text"], shingling)(pairs.i, pairs.j, pairs.kind)
    enough = similarity >= threshold
    positions = {"i": pairs.i[enough].astype("int64"), "j": pairs.j[enough].astype("int64")}
    found = pl.DataFrame(positions | {"similarity": similarity[enough]})
    return found.group_by("j", "i", maintain_order=True).agg(pl.col("similarity").max()).select("i", "j", "similarity")
