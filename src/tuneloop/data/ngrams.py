"""Character n-grams of many texts at once, as hashes: what the small models of the quality steps read.

polars is imported where a frame comes in: the gateway judges single sentences and does without it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

_CHUNK_CHARACTERS = 2_000_000
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.uint64(0xD1342543DE82EF95)


def folded(texts: pl.Series) -> pl.Series:
    """Texts as the models read them: compatibility forms unified, lower case, single spaces."""
    return texts.str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def folded_text(text: str) -> str:
    """One text, as ``folded`` gives it."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def characters(texts: pl.Series) -> tuple[Array, Array]:
    """Code points of all texts one after the other, uint32 [characters], and how many each text has, int64 [texts]."""
    import polars as pl

    lengths = texts.str.len_chars().cast(pl.Int64).to_numpy()
    return np.frombuffer("".join(texts.to_list()).encode("utf-32-le"), dtype=np.uint32), lengths


def hashes(codes: Array, n: int) -> Array:
    """A 64-bit hash of every window of ``n`` characters, uint64 [characters - n + 1]; n is part of the hash."""
    windows = max(len(codes) - n + 1, 0)
    mixed = np.full(windows, n, dtype=np.uint64)
    for k in range(n):  # polynomial over code points, modulo 2^64
        mixed = (mixed + codes[k : k + windows].astype(np.uint64)) * _ODD
    mixed ^= mixed >> np.uint64(32)
    return mixed * _SPREAD


def draws(ids: pl.Series, seed: int) -> Array:
    """A pseudo-random number of each row, uint64 [rows]: the same for the same id and seed, anywhere and in any version."""
    codes, lengths = characters(ids.fill_null(""))
    position = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    powers = np.full(int(lengths.max(initial=0)) + 1, _ODD)
    powers[0] = 1
    with np.errstate(over="ignore"):  # modulo 2^64 is meant
        terms = (codes + np.uint64(1)) * np.cumprod(powers)[position]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)])
    ends = np.cumsum(lengths)
    mixed = sums[ends] - sums[ends - lengths] + np.uint64(seed % 2**64) * _SPREAD
    for shift in (30, 27, 31):  # the finaliser of splitmix64 (Steele, Lea & Flood 2014), with other odd constants
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * _ODD
    return np.asarray(mixed ^ (mixed >> np.uint64(32)))


def buckets(texts: pl.Series, orders: Sequence[int], bits: int) -> tuple[Array, Array]:
    """All n-grams of each text in one of ``2**bits`` buckets.

    Returns:
        Buckets, int32 [n-grams], grouped by text; and how many n-grams each text has, int64 [texts].
    """
    codes, lengths = characters(texts)
    owner = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    found, owners = [], []
    for n in orders:
        inside = owner[: max(len(codes) - n + 1, 0)] == owner[n - 1 :]
        found.append((hashes(codes, n)[inside] >> np.uint64(64 - bits)).astype(np.int32))
        owners.append(owner[: len(inside)][inside])
    text = np.concatenate(owners) if owners else np.zeros(0, dtype=np.int32)
    order = np.argsort(text, kind="stable")
    counts = np.bincount(text, minlength=len(lengths)).astype(np.int64)
    return (np.concatenate(found)[order] if found else np.zeros(0, dtype=np.int32)), counts


def buckets_of(text: str, orders: Sequence[int], bits: int) -> Array:
    """The n-grams of one text in their buckets, int32 [n-grams]: what ``buckets`` gives for a series of one."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return np.concatenate([(hashes(codes, n) >> np.uint64(64 - bits)).astype(np.int32) for n in orders])


def chunks(texts: pl.Series, size: int = _CHUNK_CHARACTERS) -> Iterator[pl.Series]:
    """Parts of about ``size`` characters, in order: the arrays above take some 50 bytes a character."""
    import polars as pl

    if not len(texts):
        return
    part = (texts.str.len_chars().cast(pl.Int64).cum_sum() // size).to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(texts)]
    for start, end in pairwise(edges):
        yield texts[start:end]
