"""Text -> the set of its shingles, once plainly (the oracle) and once for many texts at a time.

A shingle is ``size`` characters or ``size`` words that follow each other (Broder, "On the resemblance and containment
of documents", 1997). The fast road never holds shingles, only their 64-bit hashes: two given shingles that differ are
taken for equal with a probability of 2^-64.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[Any]
Unit = Literal["auto", "characters", "words"]

CHARACTERS, WORDS, BOTH = 0, 1, 2
"""How a row is compared. ``BOTH``: a text near the border between the two stands under each of them."""
SIZES = {CHARACTERS: 5, WORDS: 3}
LONG_CHARACTERS = 1_500
"""From here on ``auto`` compares texts with spaces by words: a fifth of the work, and one typing error counts once."""
SPACED = 12
"""A text with at most so many characters a word is written with spaces; Chinese, Japanese and Thai are not."""
_NO_WORD = r"[^\p{L}\p{M}\p{N}]+"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Shingling:
    """What a shingle is: ``auto`` decides for each text; ``size`` 0 stands for 5 characters or 3 words."""

    unit: Unit = "auto"
    size: int = 0

    def of(self, kind: int) -> int:
        return self.size or SIZES[kind]


def shingles(text: str, kind: int = CHARACTERS, size: int = 0) -> frozenset[str]:
    """The set of shingles; a text with fewer units than ``size`` is one shingle. The plain version."""
    size = size or SIZES[kind]
    units = list(text) if kind == CHARACTERS else _words(text)
    joint = "" if kind == CHARACTERS else " "
    return frozenset(joint.join(units[k : k + size]) for k in range(max(len(units) - size + 1, 1)))


def _words(text: str) -> list[str]:
    """Runs of letters, marks and digits; a text without any is one word."""
    runs = groupby(text, key=lambda c: unicodedata.category(c)[0] in "LMN")
    return ["".join(run) for is_word, run in runs if is_word] or [text]


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def kinds(texts: pl.Series, unit: Unit) -> pl.Series:
    """``CHARACTERS``, ``WORDS`` or ``BOTH`` for each text (UInt8).

    Texts a little over the border are compared both ways: their near-duplicate may stand on the other side of it.
    Similar texts differ in length by a factor of the threshold at most, so a factor of two covers thresholds from 0.5.
    """
    if unit != "auto":
        return pl.Series([WORDS if unit == "words" else CHARACTERS], dtype=pl.UInt8).new_from_index(0, len(texts))
    frame = pl.select(length=texts.str.len_chars())
    length = frame["length"]
    kind = pl.when(length < LONG_CHARACTERS).then(CHARACTERS).when(length < 2 * LONG_CHARACTERS).then(BOTH)
    long = length >= LONG_CHARACTERS
    spaced = pl.Series([False]).new_from_index(0, len(texts))
    if long.any():
        gaps = texts.filter(long).str.count_matches(" ", literal=True)
        spaced = spaced.scatter(long.arg_true(), length.filter(long) <= SPACED * (gaps + 1))
    return pl.select(pl.when(spaced).then(kind.otherwise(WORDS)).otherwise(CHARACTERS).cast(pl.UInt8)).to_series()


def hashes(texts: pl.Series, kind: int, size: int) -> tuple[Array, Array]:
    """64-bit hashes of the shingles of all texts, one text after the other, repeats included.

    Returns:
        The hashes (uint64 [S]) and how many of them each text has (int64 [N], at least 1).
    """
    if not len(texts):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    units, lengths = _characters(texts, size) if kind == CHARACTERS else _word_hashes(texts, size)
    return _windows(units, lengths, size)


def _codes(texts: list[str]) -> Array:
    # joining Python strings is several times faster than any road over the frame's own buffers
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _characters(texts: pl.Series, size: int) -> tuple[Array, Array]:
    padded = [text.ljust(size, "\x00") for text in texts.to_list()]
    return _codes(padded).astype(np.uint64), np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))


def _word_hashes(texts: pl.Series, size: int) -> tuple[Array, Array]:
    """A hash for each word, rows with fewer than ``size`` words filled up with zeros; and the units of each row."""
    spaced = texts.str.replace_all(_NO_WORD, " ").str.strip_chars(" ")
    # a text of marks only is one word: its own separators become characters that Unicode reserves for such use
    marks = texts.str.replace_all(" ", "\ufdd0", literal=True).str.replace_all("\n", "\ufdd1", literal=True)
    spaced = spaced.zip_with(spaced != "", marks)
    lines = spaced + "\n"
    codes = _codes(lines.to_list())
    gap = (codes == 32) | (codes == 10)
    starts = np.flatnonzero(~gap & np.concatenate([[True], gap[:-1]]))
    ends = np.cumsum(lines.str.len_chars().to_numpy().astype(np.int64))
    counts = np.diff(np.searchsorted(starts, ends), prepend=0)
    filled = np.maximum(counts, size)
    units = np.zeros(int(filled.sum()), dtype=np.uint64)
    row_starts, word_starts = np.cumsum(filled) - filled, np.cumsum(counts) - counts
    units[np.arange(len(starts)) + np.repeat(row_starts - word_starts, counts)] = _word_values(codes, gap, starts)
    return units, filled


def _word_values(codes: Array, gap: Array, starts: Array) -> Array:
    """Polynomial over the code points of each word, modulo 2^64; ``starts`` are the positions of first letters."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    spans = np.diff(starts, append=len(codes))
    place = np.arange(starts[0], len(codes)) - np.repeat(starts, spans)
    powers = np.cumprod(np.full(int(spans.max()), _MULTIPLIER, dtype=np.uint64))
    letters = np.where(gap, 0, codes).astype(np.uint64)[starts[0] :]
    return mix(np.add.reduceat(letters * powers[place], starts - starts[0]))


def _windows(units: Array, lengths: Array, size: int) -> tuple[Array, Array]:
    """Hash ``size`` units that follow each other in one row; no window reaches over the end of its row."""
    count = len(units) - size + 1
    mixed = units[:count].copy()
    for k in range(1, size):
        mixed *= _MULTIPLIER
        mixed += units[k : k + count]
    inside = np.ones(count, dtype=bool)
    ends = np.cumsum(lengths)[:-1]
    for k in range(1, size):
        inside[ends - k] = False
    return mix(mixed[inside]), lengths - size + 1


def mix(values: Array) -> Array:
    """Spread every bit over all 64, in place (the finaliser of Steele et al., SplitMix64, 2014)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
