"""A character n-gram language model with interpolated Kneser-Ney smoothing, in arrays.

    P_k(w | h) = (c(hw) - D_k) / c(h·) + D_k · types(h·) / c(h·) · P_{k-1}(w | h')        P_0 = 1 / (V + 1)

c counts occurrences at the highest order and distinct left neighbours below it; D_k = n1 / (n1 + 2 n2) where n1 and n2 are
the k-grams counted once and twice; h' is h without its first character; V is the number of distinct characters (Kneser &
Ney 1995; Chen & Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999, section 2.7). N-grams are
known by 64-bit hashes: with ten million of them two share a hash with a probability of three in a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tuneloop.data.ngrams import Array, characters, chunks, hashes

_CHUNK_CHARACTERS = 500_000
_BEGIN, _END = 0x110000, 0x110001
"""Outside Unicode: the padding in front of a text and the mark behind it."""
_FALLBACK_DISCOUNT = 0.5
"""Where no k-gram was counted once, or none twice, the estimate of the discount does not exist."""


class Table:
    """Hash -> position, for uint64 hashes that are spread evenly."""

    def __init__(self, sorted_keys: Array) -> None:
        self.keys = sorted_keys
        bits = max(1, len(sorted_keys).bit_length())
        self._shift = np.uint64(64 - bits)
        starts = np.searchsorted(sorted_keys, np.arange(1 << bits, dtype=np.uint64) << self._shift)
        self._starts = np.append(starts, len(sorted_keys)).astype(np.int32)
        self._deepest = int(np.diff(self._starts).max(initial=0))

    def find(self, wanted: Array) -> Array:
        """Position of each hash, -1 where it is unknown: int64 [n]."""
        out = np.full(len(wanted), -1, dtype=np.int64)
        bucket = (wanted >> self._shift).astype(np.int64)
        at, end = self._starts[bucket], self._starts[bucket + 1]
        left = np.flatnonzero(at < end)
        for step in range(self._deepest):
            place = at[left] + step
            hit = self.keys[place] == wanted[left]
            out[left[hit]] = place[hit]
            left = left[~hit & (place + 1 < end[left])]
        return out


@dataclass(frozen=True, slots=True)
class _Order:
    grams: Table
    log2_probability: Array
    contexts: Table
    log2_backoff: Array


class KneserNey:
    """The model. ``orders[k - 1]`` holds the k-grams."""

    def __init__(self, orders: Sequence[_Order], vocabulary: int) -> None:
        self.orders, self.vocabulary = tuple(orders), vocabulary

    @classmethod
    def fit(cls, texts: pl.Series, order: int = 5) -> KneserNey:
        """Count and smooth.

        Args:
            texts: Without nulls; some 150 bytes of memory a character.
            order: Characters in the longest n-gram.
        """
        ends, windows = _windows(texts, order)
        # Below the highest order what counts is in how many contexts a k-gram occurs: its distinct (k + 1)-grams.
        firsts = [np.unique(windows[k][ends - k + 1], return_index=True)[1] for k in range(1, order + 1)]
        orders: list[_Order] = []
        below = np.array([0.0])
        for k in range(1, order + 1):
            at = ends if k == order else ends[firsts[k]]
            keys, place, counts = np.unique(windows[k][at - k + 1], return_index=True, return_counts=True)
            begins = at[place] - k + 1
            vocabulary = len(keys) if k == 1 else orders[0].grams.keys.size
            if k == 1:
                below = np.full(len(keys), 1.0 / (vocabulary + 1))
            else:
                suffix = orders[-1].grams.find(windows[k - 1][begins + 1])
                below = np.exp2(orders[-1].log2_probability[suffix].astype(np.float64))
            orders.append(_smooth(keys, counts, windows[k - 1][begins], below))
        return cls(orders, orders[0].grams.keys.size)

    def bits(self, texts: pl.Series) -> Array:
        """Mean bits a character (the end of the text is one), float64 [texts]: 2 to that power is the perplexity."""
        parts = [self._bits(part) for part in chunks(texts, _CHUNK_CHARACTERS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _bits(self, texts: pl.Series) -> Array:
        order = len(self.orders)
        ends, windows = _windows(texts, order)
        log2 = np.zeros(len(ends))
        left = np.arange(len(ends))
        for k in range(order, 0, -1):
            table, begins = self.orders[k - 1], ends[left] - k + 1
            found = table.grams.find(windows[k][begins])
            known = found >= 0
            log2[left[known]] += table.log2_probability[found[known]]
            left, begins = left[~known], begins[~known]
            context = table.contexts.find(windows[k - 1][begins])
            seen = context >= 0
            log2[left[seen]] += table.log2_backoff[context[seen]]
        log2[left] -= np.log2(self.vocabulary + 1)
        sizes = texts.str.len_chars().to_numpy().astype(np.int64) + 1
        sums = np.concatenate([[0.0], np.cumsum(log2)])
        edges = np.cumsum(sizes)
        return np.asarray((sums[edges - sizes] - sums[edges]) / sizes)


def _windows(texts: pl.Series, order: int) -> tuple[Array, list[Array]]:
    """Where characters and ends of texts stand, int64 [characters + texts]; hashes of the windows of 0 … order characters.

    Every text is padded in front, so that no window that ends in a text begins before it.
    """
    codes, lengths = characters(texts)
    padding = max(order - 1, 1)
    begins = np.cumsum(lengths + padding + 1) - lengths - 1
    line = np.full(int(lengths.sum()) + (padding + 1) * len(lengths), _BEGIN, dtype=np.uint32)
    inside = np.arange(len(codes)) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    line[inside] = codes
    line[begins + lengths] = _END
    ends = np.flatnonzero(line != _BEGIN)
    return ends, [hashes(line, k) for k in range(order + 1)]


def _smooth(keys: Array, counts: Array, contexts: Array, below: Array) -> _Order:
    """Interpolate the k-grams with the order below.

    Args:
        keys: Sorted hashes of the k-grams.
        counts: How often each occurs.
        contexts: Hash of all but the last character of each.
        below: Probability of the last character at the order below, with the first character left out.
    """
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once and twice else _FALLBACK_DISCOUNT
    known, context = np.unique(contexts, return_inverse=True)
    total, types = np.bincount(context, counts), np.bincount(context)
    backoff = discount * types / total
    probability = (counts - discount) / total[context] + backoff[context] * below
    return _Order(
        Table(keys),
        np.log2(probability).astype(np.float32),
        Table(known),
        np.log2(backoff).astype(np.float32),
    )
