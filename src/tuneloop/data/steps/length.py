"""Rows that are too short or too long."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field, PrivateAttr, model_validator

from tuneloop.config import ConfigPath
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.parts import CJK, Part, part
from tuneloop.data.steps.verdicts import verdicts
from tuneloop.errors import ConfigError, need

TOKENS_PER_CHARACTER = 0.3
TOKENS_PER_CJK_CHARACTER = 0.6
"""DeepSeek API documentation, "Token & Token Usage": 1 English character ≈ 0.3 token, 1 Chinese character ≈ 0.6 token."""
_SUSPICIOUS_SHARE = 0.10
_TAIL = 0.01


class Length(WholeBase):
    """Drops rows whose text is shorter or longer than asked.

    A CJK character counts as ``cjk_weight`` characters: a limit that was chosen for English otherwise deletes good
    Chinese rows, which say the same in fewer characters. A row without the judged part (a class has no answer) is kept.
    Where a limit drops more than a tenth, a note names the limit that would drop a hundredth.
    """

    name: ClassVar[str] = "length"

    min_characters: int | None = Field(default=None, ge=1)
    """Fewest characters, Latin ones; empty: no limit."""

    max_characters: int | None = Field(default=1_000_000, ge=1)
    """Most characters, Latin ones; empty: no limit. A row of a million is a whole file that slipped into a cell."""

    min_tokens: int | None = Field(default=None, ge=1)
    """Fewest tokens; empty: no limit."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens; empty: no limit."""

    of: Part = "all"
    """What is measured: prompt, answer or all."""

    cjk_weight: float = Field(default=2.0, gt=0.0)
    """Latin characters that one Chinese, Japanese or Korean character stands for.

    2 is the ratio of tokens per character that DeepSeek documents, and what twitter-text counts; 1 counts characters.
    """

    tokenizer: ConfigPath | None = None
    """tokenizer.json, or a model folder that holds one; empty: tokens are estimated (0.3 a character, 0.6 a CJK one)."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _in_order(self) -> Length:
        for unit in ("characters", "tokens"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{unit} {low:,} is more than max_{unit} {high:,}")
        return self

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        texts = part(frame, self.of)
        sizes = pl.DataFrame(
            {"characters": texts.str.len_chars().cast(pl.Int64), "cjk": texts.str.count_matches(CJK).cast(pl.Int64)}
        )
        plain, cjk = pl.col("characters") - pl.col("cjk"), pl.col("cjk")
        weighed = (plain + self.cjk_weight * cjk).round().cast(pl.Int64)
        if self.min_tokens is None and self.max_tokens is None:
            tokens: pl.Expr | pl.Series = pl.lit(None, dtype=pl.Int64)
        elif self.tokenizer is None:
            tokens = (TOKENS_PER_CHARACTER * plain + TOKENS_PER_CJK_CHARACTER * cjk).ceil().cast(pl.Int64)
        else:
            tokens = count_tokens(texts, self.tokenizer)
        return sizes.select(characters=weighed, tokens=tokens, cjk=cjk * 2 > pl.col("characters"))

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        sizes = digests.collect()
        reasons = []
        for unit in ("characters", "tokens"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            said = f"{'' if unit == 'characters' or self.tokenizer else 'about '}{{}} {unit}"
            if low is not None:
                short = pl.format(f"too short: {said}, at least {low} are wanted", unit)
                reasons.append(pl.when(pl.col(unit) < low).then(short))
                self._note(sizes, unit, "min", low)
            if high is not None:
                long = pl.format(f"too long: {said}, at most {high} are wanted", unit)
                reasons.append(pl.when(pl.col(unit) > high).then(long))
                self._note(sizes, unit, "max", high)
        return verdicts(sizes.select("at", reason=pl.coalesce(*reasons, pl.lit(None, dtype=pl.String))))

    def _note(self, sizes: pl.DataFrame, unit: str, side: str, limit: int) -> None:
        """Say so when one limit drops more than a tenth: it was most likely made for other data."""
        measured = sizes.filter(pl.col(unit).is_not_null())
        beyond = pl.col(unit) < limit if side == "min" else pl.col(unit) > limit
        gone = measured.filter(beyond)
        if gone.height <= _SUSPICIOUS_SHARE * measured.height:
            return
        tail = measured[unit].quantile(_TAIL if side == "min" else 1 - _TAIL, "lower" if side == "min" else "higher")
        what = {"prompt": "prompts", "answer": "answers", "all": "rows"}[self.of]
        cause = (
            "most of them are Chinese, Japanese or Korean, which say more with a character"
            if int(gone["cjk"].sum()) * 2 > gone.height
            else f"{what} of this data are {'shorter' if side == 'min' else 'longer'} than the limit expects"
        )
        self._notes.append(
            f"{side}_{unit}: {limit} drops {gone.height:,} of {measured.height:,} {what} "
            f"({gone.height / measured.height:.0%}): {cause}; {side}_{unit}: {tail:.0f} would drop 1 %"
        )


def count_tokens(texts: pl.Series, tokenizer: Path) -> pl.Series:
    """Tokens of each text without special tokens, Int64; null stays null.

    Raises:
        ConfigError: There is no tokenizer at that path.
        MissingExtraError: ``tokenizers`` is not installed.
    """
    told = texts.drop_nulls()
    counts = [len(e.ids) for e in _tokenizer(tokenizer).encode_batch(told.to_list(), add_special_tokens=False)]
    nothing = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(texts))
    return nothing.scatter(texts.is_not_null().arg_true(), counts)


@lru_cache(maxsize=4)
def _tokenizer(path: Path) -> Any:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            "there is no tokenizer.json", where=str(path), hint="data.steps length: {tokenizer: model-folder}"
        )
    return need("tokenizers", "train").Tokenizer.from_file(str(file))
