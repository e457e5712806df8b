"""Texts that are made of symbols, digits or shouting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import polars as pl
from pydantic import Field

from tuneloop.data.frame import drop
from tuneloop.data.steps import StepBase
from tuneloop.data.steps.parts import Part, part

_FEW_WORDS = 50
"""Gopher judges words of documents with at least 50 of them."""
_FEW_LINES = 5
_COUNTED = {
    "characters": r"\S",
    "letters": r"\p{L}",
    "digits": r"\p{N}",
    "combining": r"[\p{M}\x{200d}\x{fe0f}]",
    "upper": r"\p{Lu}",
    "words": r"\p{Han}|[^\s\p{Han}]+",
    "alphabetic": r"\p{Han}|[^\s\p{Han}]*\p{L}[^\s\p{Han}]*",
    "marks": r"#+|\.{3,}|…+",
    "lines": r"(?m)^.*\S.*$",
    "bullets": r"(?m)^\s*[-*•·●▪]",
    "ellipses": r"(?m)(?:\.{3}|…)\s*$",
}


class Symbols(StepBase):
    """Drops rows that are hardly text: shares of characters, words and lines beyond a limit.

    Sources: Gopher (Rae et al. 2021, section A.1.1: hashes and ellipses, alphabetic words, bullets, ellipsis lines), C4
    (Raffel et al. 2020: lorem ipsum) and ROOTS (Laurençon et al. 2022, the default special_characters_cutoff). Letters of
    every script count as letters, each Han character as a word. C4's rule against curly brackets is not followed: in
    questions and answers they are code.
    """

    name: ClassVar[str] = "symbols"

    max_symbols: float = Field(default=0.4, ge=0.0, le=1.0)
    """Largest share of the characters that are neither letters nor digits (ROOTS: 0.4)."""

    max_digits: float = Field(default=0.7, ge=0.0, le=1.0)
    """Largest share of the characters that are digits. A long multiplication reaches 0.6."""

    max_uppercase: float = Field(default=1.0, ge=0.0, le=1.0)
    """Largest share of the letters that are capitals. 1 drops none: a customer who shouts is a customer."""

    max_marks_per_word: float = Field(default=0.1, ge=0.0)
    """Most hashes and ellipses for each word (Gopher: 0.1); a run such as #### counts once."""

    min_alphabetic_words: float = Field(default=0.2, ge=0.0, le=1.0)
    """Smallest share of words with a letter. Gopher's 0.8 is for web pages: it drops 54 % of GSM8K, whose words are sums."""

    max_bullet_lines: float = Field(default=1.0, ge=0.0, le=1.0)
    """Largest share of lines that begin with a bullet. Gopher takes 0.9; a good answer may be a list."""

    max_ellipsis_lines: float = Field(default=0.3, ge=0.0, le=1.0)
    """Largest share of lines that end with an ellipsis (Gopher: 0.3)."""

    min_characters: int = Field(default=20, ge=1)
    """Texts with fewer characters, spaces left out, are not judged: ``2+2=4`` is an answer."""

    lorem_ipsum: bool = True
    """Drop rows with the placeholder text *lorem ipsum* (C4)."""

    of: Part = "all"
    """What is judged: prompt, answer or all."""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        texts = part(frame, self.of).fill_null("")
        counts = {name: texts.str.count_matches(pattern) for name, pattern in _COUNTED.items()}
        counted = pl.DataFrame(counts | {"filler": texts.str.contains(r"(?i)\blorem ipsum\b")})
        long_enough = pl.col("characters") >= self.min_characters
        reasons = pl.coalesce(
            *(pl.when(long_enough & (share > limit)).then(why) for share, limit, why in self._rules())
        )
        filler = pl.when(pl.col("filler") & self.lorem_ipsum).then(pl.lit("placeholder: lorem ipsum"))
        return drop(frame, self.name, counted.select(pl.coalesce(filler, reasons)).to_series())

    def _rules(self) -> Iterator[tuple[pl.Expr, float, pl.Expr]]:
        """A share, its limit, and the reason to drop a row beyond it."""
        count = pl.col
        symbols = count("characters") - count("letters") - count("digits") - count("combining")
        wordless = count("words") - count("alphabetic")
        some_words, some_lines = count("words") >= _FEW_WORDS, count("lines") >= _FEW_LINES
        for part_, whole, judged, limit, what in (
            (symbols, "characters", True, self.max_symbols, "{} % of the characters are symbols"),
            (count("digits"), "characters", True, self.max_digits, "{} % of the characters are digits"),
            (count("upper"), "letters", True, self.max_uppercase, "{} % of the letters are capitals"),
            (wordless, "words", True, 1 - self.min_alphabetic_words, "{} % of the words have no letter"),
            (count("marks"), "words", some_words, self.max_marks_per_word, "{} hashes and ellipses in 100 words"),
            (count("bullets"), "lines", some_lines, self.max_bullet_lines, "{} % of the lines are bullets"),
            (count("ellipses"), "lines", some_lines, self.max_ellipsis_lines, "{} % of the lines end with an ellipsis"),
        ):
            share = pl.when(judged).then(part_ / count(whole))
            percent = (100 * share).round(0).cast(pl.Int64, strict=False)
            yield share, limit, pl.format(f"symbols: {what} (limit {100 * limit:.0f})", percent)
