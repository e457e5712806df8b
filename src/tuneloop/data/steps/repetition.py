"""Texts that say the same again and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from tuneloop.data.frame import REJECTED, drop, turns
from tuneloop.data.ngrams import Array, chunks
from tuneloop.data.steps import StepBase
from tuneloop.data.steps.parts import CJK

_WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]|[\p{L}\p{M}\p{N}_]+"
"""A run of letters and digits is a word; each CJK character stands for itself."""
_CJK_CHARACTERS_PER_WORD = 2
"""Most Chinese words have two characters: n words are 2n characters there."""


class Repetition(StepBase):
    """Drops a row when one of its messages repeats itself.

    Measures and limits are those of Gopher (Rae et al., "Scaling Language Models: Methods, Analysis & Insights from
    Training Gopher", 2021, table A1): how much of a text stands in repeated lines, paragraphs and n-grams. What occurs for
    the first time is not counted as repeated. Lines without a letter or digit (brackets, rules) are not counted. In
    Chinese, Japanese and Korean two characters count as a word. System prompts are not judged.

    Gopher's limits are made for web pages. Sums, code and quoted questions repeat themselves by nature: with the limits as
    they are, 18 % of GSM8K and 12 % of English DPO answers would go (benchmarks/steps.py); hence ``tolerance``.
    """

    name: ClassVar[str] = "repetition"

    duplicate_lines: float = Field(default=0.30, ge=0.0, le=1.0)
    """Largest share of lines that are copies of an earlier line."""

    duplicate_paragraphs: float = Field(default=0.30, ge=0.0, le=1.0)
    """Largest share of paragraphs that are copies of an earlier paragraph."""

    duplicate_line_characters: float = Field(default=0.20, ge=0.0, le=1.0)
    """Largest share of characters in such lines."""

    duplicate_paragraph_characters: float = Field(default=0.20, ge=0.0, le=1.0)
    """Largest share of characters in such paragraphs."""

    top_ngrams: Mapping[int, float] = {2: 0.20, 3: 0.18, 4: 0.16}
    """Words n -> largest share of characters in the n-gram that occurs most often, where it occurs more than once."""

    duplicate_ngrams: Mapping[int, float] = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    """Words n -> largest share of characters in copies of an earlier n-gram."""

    tolerance: float = Field(default=2.5, gt=0.0)
    """Every limit is multiplied by this. 1 for web pages; 2.5 finds loops and leaves 99 % of good answers alone."""

    min_words: int = Field(default=30, ge=1)
    """Shorter messages are not judged. Gopher wants 50, as it drops shorter documents anyway."""

    @field_validator("top_ngrams", "duplicate_ngrams")
    @classmethod
    def _at_least_one_word(cls, value: Mapping[int, float]) -> Mapping[int, float]:
        if any(n < 1 for n in value) or any(not 0 <= share <= 1 for share in value.values()):
            raise ValueError(f"{dict(value)} is not a table of n-gram length (from 1) to share (0 to 1)")
        return value

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        flat = turns(frame).filter(~pl.col("role").is_in(["system", REJECTED])).select("row", text="content")
        cjk = pl.col("text").str.count_matches(CJK)
        # Cheap bounds first: a word and the space after it have two characters at least.
        roomy = flat.filter(pl.col("text").str.len_chars() + cjk >= 2 * self.min_words)
        sized = roomy.with_columns(cjk=cjk).with_columns(
            words=(pl.col("text").str.count_matches(_WORD) - pl.col("cjk")) + pl.col("cjk") // _CJK_CHARACTERS_PER_WORD
        )
        long = sized.filter(pl.col("words") >= self.min_words)
        found: dict[int, str] = {}
        for dense, per_word in ((False, 1), (True, _CJK_CHARACTERS_PER_WORD)):
            judged = long.filter((pl.col("cjk") // _CJK_CHARACTERS_PER_WORD * 2 > pl.col("words")) == dense)
            for row, why in zip(judged["row"], self.judge(judged["text"], per_word), strict=True):
                if why is not None:
                    found.setdefault(row, f"repetition: {why}")
        rows = pl.Series(list(found), dtype=pl.Int64)
        reasons = pl.Series([None], dtype=pl.String).new_from_index(0, frame.height)
        return drop(frame, self.name, reasons.scatter(rows, list(found.values())) if found else reasons)

    def judge(self, texts: pl.Series, units_per_word: int = 1) -> list[str | None]:
        """What each text repeats too much of, or None."""
        reasons: list[str | None] = [None] * len(texts)
        start = 0
        for chunk in chunks(texts):
            for words, limit, share in self._shares(chunk, units_per_word):
                allowed = limit * self.tolerance
                for k in np.flatnonzero(share > allowed).tolist():
                    reasons[start + k] = reasons[start + k] or f"{share[k]:.0%} of it {words} (limit {allowed:.0%})"
            start += len(chunk)
        return reasons

    def _shares(self, texts: pl.Series, units_per_word: int) -> Iterator[tuple[str, float, Array]]:
        """What is measured, its limit, and the shares [rows]."""
        for separator, unit, limit, limit_characters in (
            (r"\n", "lines", self.duplicate_lines, self.duplicate_line_characters),
            (r"\n\s*\n", "paragraphs", self.duplicate_paragraphs, self.duplicate_paragraph_characters),
        ):
            share, characters = duplicate_pieces(texts, separator)
            yield f"are copied {unit}, counted as {unit}", limit, share
            yield f"are copied {unit}", limit_characters, characters
        # Exact counts need sorting, and few texts need exact counts: quick upper bounds come first.
        words = Words(texts)
        for n, limit in self.top_ngrams.items():
            length = n * units_per_word
            at = np.flatnonzero(words.top_at_most(length) > limit * self.tolerance)
            yield f"is one phrase of {n} words", limit, _spread(Words(texts[at]).top(length), at, len(texts))
        if not self.duplicate_ngrams:
            return
        lowest = min(self.duplicate_ngrams.values()) * self.tolerance
        at = np.flatnonzero(words.duplicated_at_most(min(self.duplicate_ngrams) * units_per_word) > lowest)
        for n, limit in sorted(self.duplicate_ngrams.items()):
            share = Words(texts[at]).duplicated(n * units_per_word)
            yield f"are copied phrases of {n} words", limit, _spread(share, at, len(texts))
            at = at[share > lowest]  # what stands in a copied n-gram stands in copied shorter ones


def _spread(shares: Array, at: Array, n: int) -> Array:
    out = np.zeros(n)
    out[at] = shares
    return out


def duplicate_pieces(texts: pl.Series, separator: str) -> tuple[Array, Array]:
    """Shares of pieces (lines, paragraphs) that copy an earlier one, and of their characters: two arrays [rows]."""
    marked = texts.str.replace_all(separator, "\x1e")
    pieces = (
        pl.DataFrame({"row": np.arange(len(texts)), "piece": marked.str.split("\x1e")})
        .explode("piece")
        .with_columns(pl.col("piece").str.strip_chars())
        .filter(pl.col("piece").str.contains(r"[\p{L}\p{N}]"))
        .with_columns(copy=~pl.struct("row", "piece").is_first_distinct(), characters=pl.col("piece").str.len_chars())
    )
    rows, copies, sizes = pieces["row"].to_numpy(), pieces["copy"].to_numpy(), pieces["characters"].to_numpy()
    n = len(texts)
    number = np.maximum(np.bincount(rows, minlength=n), 1)
    characters = np.maximum(np.bincount(rows, sizes, n), 1)
    return np.bincount(rows, copies, n) / number, np.bincount(rows, copies * sizes, n) / characters


class Words:
    """The words of many texts one after the other, as hashes."""

    def __init__(self, texts: pl.Series) -> None:
        flat = pl.DataFrame({"row": np.arange(len(texts)), "word": texts.str.extract_all(_WORD)}).explode("word")
        flat = flat.filter(pl.col("word").is_not_null())
        self.n = len(texts)
        self.row = flat["row"].to_numpy()
        self.hash = flat["word"].hash().to_numpy()
        self.size = flat["word"].str.len_chars().to_numpy().astype(np.int64)
        self.total = np.maximum(np.bincount(self.row, self.size, self.n), 1)

    def _grams(self, n: int) -> tuple[Array, Array]:
        """Where an n-gram begins, and the hash of (text, n-gram) there."""
        windows = len(self.hash) - n + 1
        if windows <= 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
        mixed = self.row[:windows].astype(np.uint64)
        for k in range(n):  # polynomial over word hashes, modulo 2^64
            mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + self.hash[k : k + windows]
        at = np.flatnonzero(self.row[:windows] == self.row[n - 1 :])
        return at, mixed[at]

    def top(self, n: int) -> Array:
        """Share of characters in the n-gram that occurs most often, 0 where none occurs twice: [rows]."""
        at, grams = self._grams(n)
        _, first, counts = np.unique(grams, return_index=True, return_counts=True)
        often = counts > 1
        at, counts = at[first[often]], counts[often]
        ends = np.concatenate([[0], np.cumsum(self.size)])
        characters = counts * (ends[at + n] - ends[at])
        row = self.row[at]
        order = np.lexsort((characters, counts, row))
        out = np.zeros(self.n)
        out[row[order]] = characters[order]  # of equal rows the last one stays: the most frequent, then the longest
        return np.minimum(out / self.total, 1.0)

    def duplicated(self, n: int) -> Array:
        """Share of characters inside n-grams that occurred before in the same text: [rows]."""
        at, grams = self._grams(n)
        _, first = np.unique(grams, return_index=True)
        again = np.ones(len(at), dtype=bool)
        again[first] = False
        return self._covered(at[again], n)

    def _covered(self, begins: Array, n: int) -> Array:
        """Share of characters inside the n-grams that begin at these words: [rows]."""
        edges = np.bincount(begins, minlength=len(self.row) + 1) - np.bincount(begins + n, minlength=len(self.row) + 1)
        inside = np.cumsum(edges[:-1]) > 0
        return np.bincount(self.row, self.size * inside, self.n) / self.total

    def top_at_most(self, n: int) -> Array:
        """A quick upper bound of ``top``: [rows]."""
        at, counts = self._rough_counts(n)
        ends = np.concatenate([[0], np.cumsum(self.size)])
        characters = np.where(counts > 1, counts * (ends[at + n] - ends[at]), 0)
        out = np.zeros(self.n)
        np.maximum.at(out, self.row[at], characters)
        return out / self.total

    def duplicated_at_most(self, n: int) -> Array:
        """A quick upper bound of ``duplicated``: [rows]."""
        at, counts = self._rough_counts(n)
        return self._covered(at[counts > 1], n)

    def _rough_counts(self, n: int) -> tuple[Array, Array]:
        """Where n-grams begin, and how often each occurs in its text; hash buckets that collide count together."""
        at, grams = self._grams(n)
        bits = max(10, (8 * len(grams)).bit_length())
        buckets = ((grams * np.uint64(0xD1342543DE82EF95)) >> np.uint64(64 - bits)).astype(np.int64)
        return at, np.bincount(buckets)[buckets] if len(at) else np.zeros(0, dtype=np.int64)
