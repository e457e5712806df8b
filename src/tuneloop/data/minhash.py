"""Near-duplicate candidates: MinHash over character shingles, banded; then the exact similarity.

The sketch only proposes pairs. Whether a pair is similar is decided by the Jaccard similarity of the two sets of
shingles themselves (Broder, "On the resemblance and containment of documents", 1997).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

SHINGLE = 5
"""Characters in a shingle. Works for English and Chinese alike; words would not."""
PERMUTATIONS = 128
_MISSED_AT_THRESHOLD = 0.002
"""Bands are chosen so that a pair exactly at the threshold is missed with at most this probability."""
_WHOLE_BUCKET = 200
_WINDOW = 50
_CHUNK_ROWS = 20_000

Array = NDArray[Any]


def shingles(text: str) -> frozenset[str]:
    """The set of character 5-grams; a shorter text is one shingle."""
    if len(text) <= SHINGLE:
        return frozenset((text,))
    return frozenset(text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def bands(threshold: float) -> int:
    """Rows per band: the most selective choice that still finds pairs at the threshold."""
    for rows in range(PERMUTATIONS // 4, 1, -1):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= _MISSED_AT_THRESHOLD:
            return rows
    return 1


def signatures(texts: Sequence[str], seed: int = 1) -> Array:
    """MinHash signatures, uint32 [N, PERMUTATIONS]. Shingles are hashed for all texts at once."""
    import rensa

    out = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    for start in range(0, len(texts), _CHUNK_ROWS):
        chunk = texts[start : start + _CHUNK_ROWS]
        hashes, offsets = _shingle_hashes(chunk)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, seed)
        out[start : start + len(chunk)] = np.array(matrix.to_rows(), dtype=np.uint32)
    return out


def _shingle_hashes(texts: Sequence[str]) -> tuple[Array, Array]:
    """64-bit hashes of all shingles, and the offset at which each text begins (and the end)."""
    padded = [text if len(text) >= SHINGLE else text.ljust(SHINGLE, "\x00") for text in texts]
    lengths = np.fromiter((len(text) for text in padded), dtype=np.int64, count=len(padded))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    windows = len(codes) - SHINGLE + 1
    mixed = np.zeros(max(windows, 0), dtype=np.uint64)
    for k in range(SHINGLE):  # polynomial over code points, modulo 2^64
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + codes[k : k + windows]
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    counts = lengths - SHINGLE + 1
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(lengths) else np.zeros(0, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    inside = np.arange(int(counts.sum())) - np.repeat(offsets[:-1].astype(np.int64), counts)
    return mixed[np.repeat(first, counts) + inside], offsets


def candidates(texts: Sequence[str], threshold: float) -> tuple[list[tuple[int, int]], int]:
    """Pairs (i < j) that may be similar, ordered by j and then i, and the size of the largest capped bucket (or 0)."""
    if len(texts) < 2:
        return [], 0
    sketch = signatures(texts)
    rows, n = bands(threshold), len(texts)
    found: list[Array] = []
    capped = 0
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        for bucket in _buckets(sketch[:, start : start + rows]):
            if len(bucket) > _WHOLE_BUCKET:
                capped = max(capped, len(bucket))
            i, j = _pairs(bucket)
            found.append(j.astype(np.int64) * n + i)
    if not found:
        return [], capped
    codes = np.unique(np.concatenate(found))
    j, i = codes // n, codes % n
    likely = _agreement(sketch, i, j) >= threshold - 0.2  # over five standard deviations below the threshold
    return list(zip(i[likely].tolist(), j[likely].tolist(), strict=True)), capped


def near_pairs(texts: pl.Series, threshold: float = 0.8) -> pl.DataFrame:
    """All pairs of texts that are at least ``threshold`` similar, compared as they are.

    Returns:
        i, j (Int64, positions, i < j) and similarity (Float64, exact), sorted by j and then i.
    """
    pairs, _ = candidates(texts.to_list(), threshold)
    sets = {k: shingles(texts[k]) for k in {k for pair in pairs for k in pair}}
    rows = [(i, j, jaccard(sets[i], sets[j])) for i, j in pairs]
    schema = {"i": pl.Int64, "j": pl.Int64, "similarity": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row").filter(pl.col("similarity") >= threshold)


def _buckets(band: Array) -> Iterator[Array]:
    """Indices (ascending) of the rows that agree in the whole band, for every value that occurs twice."""
    packed = np.ascontiguousarray(band).view(np.dtype((np.void, band.shape[1] * band.itemsize))).ravel()
    _, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(counts)
    for k in np.flatnonzero(counts > 1):
        yield order[ends[k] - counts[k] : ends[k]]


def _pairs(bucket: Array) -> tuple[Array, Array]:
    """All pairs of a bucket; of a giant one those with its first rows and with close neighbours."""
    a, b = np.triu_indices(min(len(bucket), _WHOLE_BUCKET), 1)
    if len(bucket) > _WHOLE_BUCKET:
        rest = np.arange(_WHOLE_BUCKET, len(bucket))
        with_first = np.tile(np.arange(_WINDOW), len(rest))
        with_near = (rest[:, None] - np.arange(1, _WINDOW + 1)[None, :]).ravel()
        a = np.concatenate([a, with_first, with_near])
        b = np.concatenate([b, np.repeat(rest, _WINDOW), np.repeat(rest, _WINDOW)])
    return bucket[a], bucket[b]


def _agreement(sketch: Array, i: Array, j: Array) -> Array:
    """Share of equal permutations: the estimate of the Jaccard similarity."""
    out = np.empty(len(i))
    for start in range(0, len(i), 100_000):
        part = slice(start, start + 100_000)
        out[part] = (sketch[i[part]] == sketch[j[part]]).mean(axis=1)
    return out
