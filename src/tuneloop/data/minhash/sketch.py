"""Texts -> MinHash sketches, and how many of their bits must agree.

A sketch is the smallest value of each of ``HASHES`` permutations of the shingles' hashes (Broder 1997), of which eight
bits are kept (b-bit minwise hashing, Li and König 2010): two texts of Jaccard similarity J agree in a place with
probability J + (1 - J)/256. 64 bytes a text, whatever its length.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import polars as pl

from tuneloop.data.minhash.shingles import BOTH, CHARACTERS, WORDS, Array, Shingling, hashes, kinds, mix

HASHES = 64
MISSED = 0.002
"""A pair exactly at the threshold is overlooked by the bands with at most this probability; above it, far less."""
_FILTERED = 0.0005
"""The same for the look at whole sketches that follows the bands."""
_MOST_BANDS = 128
_BACKGROUND = 0.1
"""Similarity of unrelated texts (shared words, set phrases) that the choice of the band's width reckons with."""
_CHARACTERS_A_PART = 250_000
"""Work that fits in a core's cache."""

_BITS = np.uint32(0x9E3779B1)


def noise(count: int, stream: int) -> Array:
    """Pseudo-random uint64 that no release of numpy changes: sketches on disk must keep their meaning."""
    return mix(np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32))


_FACTORS = (noise(HASHES, 1) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def digest(texts: pl.Series, shingling: Shingling) -> pl.DataFrame:
    """What ``candidates`` and the exact check need of each text.

    Returns:
        ``text``; ``shingle`` (UInt8, how it is compared, see ``shingles.kinds``); ``sketch`` (Binary, ``HASHES`` bytes
        for each way in which it is compared).
    """
    kind = kinds(texts, shingling.unit)
    column = pl.Series([b""], dtype=pl.Binary).new_from_index(0, len(texts))
    for wanted in (CHARACTERS, WORDS):
        rows = ((kind == wanted) | (kind == BOTH)).arg_true()
        if len(rows):
            found = _as_binary(signatures(texts.gather(rows), wanted, shingling.of(wanted)))
            column = column.scatter(rows, column.gather(rows) + found)
    return pl.DataFrame({"text": texts, "shingle": kind, "sketch": column})


def _as_binary(matrix: Array) -> pl.Series:
    whole = matrix.tobytes()
    return pl.Series([whole[k : k + HASHES] for k in range(0, len(whole), HASHES)], dtype=pl.Binary)


def signatures(texts: pl.Series, kind: int = CHARACTERS, size: int = 5) -> Array:
    """MinHash sketches, uint8 [N, HASHES]."""
    out = np.empty((len(texts), HASHES), dtype=np.uint8)

    def fill(part: tuple[int, int]) -> None:
        start, end = part
        found, counts = hashes(texts[start:end], kind, size)
        out[start:end] = _minima((found >> np.uint64(32)).astype(np.uint32), np.cumsum(counts) - counts).T

    # numpy lets other threads run while it computes; as many as polars was given
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        deque(pool.map(fill, parts(texts.str.len_chars().to_numpy(), _CHARACTERS_A_PART)), maxlen=0)
    return out


def _minima(values: Array, starts: Array) -> Array:
    """Eight bits of the smallest value of each permutation, uint8 [HASHES, N].

    A permutation is the multiplication by an odd number modulo 2^32. That is enough here, because the values are hashes
    already: over random sets the agreement of sketches has the mean and the variance of independent permutations.
    """
    least = np.empty((HASHES, len(starts)), dtype=np.uint32)
    permuted = np.empty_like(values)
    for k in range(HASHES):
        np.multiply(values, _FACTORS[k], out=permuted)
        np.minimum.reduceat(permuted, starts, out=least[k])
    return ((least * _BITS) >> np.uint32(24)).astype(np.uint8)  # a minimum's own high bits are nearly always zero


def parts(sizes: Array, most: int) -> list[tuple[int, int]]:
    """Cut rows into ranges of about ``most`` units; a row larger than that stands alone or at the end of its range."""
    if not len(sizes):
        return []
    bins = np.cumsum(sizes, dtype=np.int64) // most
    cuts = [0, *(np.flatnonzero(np.diff(bins)) + 1).tolist(), len(sizes)]
    return list(pairwise(cuts))


@dataclass(frozen=True, slots=True)
class Plan:
    """``bands`` bands of ``width`` hashes; of the pairs they propose those with ``agreeing`` equal hashes are checked."""

    width: int
    bands: int
    agreeing: int


@cache
def plan(threshold: float, rows: int) -> Plan:
    """The most selective bands that keep to ``MISSED``: wider for more rows, because unrelated pairs grow with n²."""
    wanted = max(2, math.ceil(math.log(max(rows, 2) / 2) / -math.log(_BACKGROUND) - 1e-9))
    for width in range(min(wanted, 8), 1, -1):
        for bands in range(1, _MOST_BANDS + 1):
            if missed(threshold, width, bands) <= MISSED:
                return Plan(width, bands, agreeing(threshold))
    return Plan(1, HASHES, agreeing(threshold))


def missed(similarity: float, width: int, bands: int) -> float:
    """Probability that a pair agrees in no band.

    The bands of one shuffle share no hash; those of different shuffles are independent once it is given how many hashes
    agree, which is a binomial number.
    """
    whole, rest = divmod(bands, HASHES // width)
    return math.fsum(
        _binomial(a, similarity) * _none(a, width, HASHES // width) ** whole * _none(a, width, rest)
        for a in range(HASHES + 1)
    )


@cache
def _none(a: int, width: int, bands: int) -> float:
    """Probability that none of ``bands`` disjoint bands lies within ``a`` hashes drawn at random (inclusion, exclusion)."""
    ways = sum(
        (-1) ** k * math.comb(bands, k) * math.comb(HASHES - k * width, a - k * width)
        for k in range(min(bands, a // width) + 1)
    )
    return float(ways / math.comb(HASHES, a))


def agreeing(threshold: float) -> int:
    """How many hashes at least agree in a pair at the threshold, but for a probability of ``_FILTERED``."""
    below = 0.0
    for a in range(HASHES + 1):
        below += _binomial(a, threshold)
        if below > _FILTERED:
            return a
    return HASHES


def _binomial(a: int, p: float) -> float:
    return math.comb(HASHES, a) * p**a * (1 - p) ** (HASHES - a)


@cache
def band_columns(width: int, bands: int) -> tuple[tuple[int, ...], ...]:
    """Which hashes make each band: shuffles of all hashes cut into pieces, so that every hash serves equally often."""
    found: list[tuple[int, ...]] = []
    for stream in range(2, bands + 2):
        order = np.argsort(noise(HASHES, stream)).tolist()
        found += [tuple(order[k : k + width]) for k in range(0, HASHES - width + 1, width)]
    return tuple(found[:bands])
