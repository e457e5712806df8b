"""The Jaccard similarity itself, for many pairs at a time.

Sets of shingles are compared by 52 bits of their hashes: two texts of n shingles each are given a wrong similarity with
a probability below 2n² / 2^52 (5e-12 for 100 shingles, 5e-8 for 10,000), and then it is off by about 1/n.
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
"""Eleven bits number the pairs of a part, 52 bits hold a hash, and the last one tells whose it is."""
_CHARACTERS_A_PART = 1_000_000
_THREADS = 2
_BITS, _SIDE = np.uint64(52), np.uint64(1)


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
    found >>= np.uint64(64) - _BITS
    sizes = counts[local]
    ends = np.cumsum(sizes)
    members = np.arange(int(ends[-1])) + np.repeat((np.cumsum(counts) - counts)[local] - (ends - sizes), sizes)
    pair, side = np.divmod(np.arange(2 * len(i)), len(i))[::-1]
    tag = (pair.astype(np.uint64) << (_BITS + _SIDE)) | side.astype(np.uint64)
    tagged = np.sort(np.repeat(tag, sizes) | (found[members] << _SIDE))
    # a run of the same pair and shingle: it is shared when it begins with one text and ends with the other
    first = np.flatnonzero(np.concatenate([[True], (tagged[1:] ^ tagged[:-1]) > _SIDE]))
    last = np.append(first[1:], len(tagged)) - 1
    owner = (tagged[first] >> (_BITS + _SIDE)).astype(np.int64)
    union = np.bincount(owner, minlength=len(i))
    shared = np.bincount(owner[tagged[first] != tagged[last]], minlength=len(i))
    return np.asarray(shared / union)
