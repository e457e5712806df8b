"""The Jaccard similarity itself, for many pairs at a time.

Sets of shingles are compared by 52 bits of their hashes: two texts of n shingles each are given a wrong similarity with
a probability below n² / 2^52 (2e-12 for 100 shingles, 2e-8 for 10,000), and then it is off by about 1/n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from tuneloop.data.minhash.shingles import Array, Shingling, hashes
from tuneloop.data.minhash.sketch import parts

Compare = Callable[[Array, Array, Array], Array]
"""Rows i, rows j and how to compare them -> Jaccard similarities (float64)."""
_PAIRS_A_PART = 2_048
"""Twelve bits number the rows of a part (at most 4,096), and 52 bits are left for a hash."""
_CHARACTERS_A_PART = 1_000_000
_THREADS = 2
_HASH = np.uint64(52)


def compare(texts: pl.Series, shingling: Shingling) -> Compare:
    """The comparison of rows of ``texts``."""
    lengths = texts.str.len_chars().to_numpy().astype(np.int64)

    def similarities(i: Array, j: Array, kind: Array) -> Array:
        out = np.empty(len(i))
        for way in np.unique(kind).tolist():
            which = np.flatnonzero(kind == way)
            size = shingling.of(way)
            ranges = [which[s:e] for s, e in _parts(lengths[i[which]] + lengths[j[which]])]
            with ThreadPoolExecutor(_THREADS) as pool:
                work = pool.map(lambda part: _similarities(texts, i[part], j[part], way, size), ranges)  # noqa: B023
                for part, found in zip(ranges, work, strict=True):
                    out[part] = found
        return out

    return similarities


def _parts(characters: Array) -> Iterator[tuple[int, int]]:
    for start, end in parts(characters, _CHARACTERS_A_PART):
        for begin in range(start, end, _PAIRS_A_PART):
            yield begin, min(begin + _PAIRS_A_PART, end)


def _similarities(texts: pl.Series, i: Array, j: Array, kind: int, size: int) -> Array:
    rows, local = np.unique(np.concatenate([i, j]), return_inverse=True)
    found, counts = hashes(texts.gather(rows), kind, size)
    sets, owner_counts = _distinct(np.repeat(np.arange(len(rows)), counts), found, len(rows))
    begins = np.cumsum(owner_counts) - owner_counts
    pairs = np.tile(np.arange(len(i)), 2)
    sizes = owner_counts[local]
    ends = np.cumsum(sizes)
    members = np.arange(int(sizes.sum())) + np.repeat(begins[local] - (ends - sizes), sizes)
    both = np.sort((np.repeat(pairs, sizes).astype(np.uint64) << _HASH) | sets[members])
    shared = np.bincount((both[1:][both[1:] == both[:-1]] >> _HASH).astype(np.int64), minlength=len(i))
    return np.asarray(shared / (sizes[: len(i)] + sizes[len(i) :] - shared))


def _distinct(owner: Array, found: Array, rows: int) -> tuple[Array, Array]:
    """52-bit hashes of each row without repeats, sorted, row after row; and how many each has."""
    tagged = np.sort((owner.astype(np.uint64) << _HASH) | (found >> np.uint64(12)))
    first = np.concatenate([[True], tagged[1:] != tagged[:-1]])
    tagged = tagged[first]
    counts = np.bincount((tagged >> _HASH).astype(np.int64), minlength=rows)
    return tagged & ((np.uint64(1) << _HASH) - np.uint64(1)), counts
