"""Rows that a language model finds improbable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
from pydantic import Field, PrivateAttr

from tuneloop.config import ConfigPath
from tuneloop.data.kneser_ney import KneserNey
from tuneloop.data.ngrams import Array, draws, folded
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.parts import CJK, Part, part
from tuneloop.data.steps.verdicts import no_verdicts, verdicts
from tuneloop.errors import ConfigError
from tuneloop.progress import track

_BATCH_ROWS = 20_000
_CJK_SHARE = 0.3
_NORMAL = 1.4826
"""Median absolute deviations in the standard deviation of a normal distribution."""

Scorer = Callable[[pl.Series], Array]
"""Texts -> mean bits a character, float64 [texts]: what any language model can give."""


class Perplexity(WholeBase):
    """Drops the rows whose text is least probable: other languages, broken encodings, keyboard noise.

    The model is a character n-gram model (interpolated Kneser-Ney). It learns from a reference file; or, without one, from
    two samples of the data, and no row is judged by the model that has read it. Chinese, Japanese and Korean rows are
    compared with each other only: a character says more there, and its perplexity is ten times as high.

    By default only outliers go, and in clean data there are none (Banking77 loses 0.07 %, GSM8K and Huatuo nothing). The
    narrower the data, the sharper the step. Text that is rare but right is improbable as well: read what is dropped.
    """

    name: ClassVar[str] = "perplexity"

    max_deviations: float | None = Field(default=6.0, gt=0.0)
    """Rows are dropped whose bits a character lie this many standard deviations above the median; empty: no such limit.

    The deviation is 1.4826 times the median absolute deviation (Hampel 1974), which the outliers do not widen.
    """

    percentile: float | None = Field(default=None, gt=50.0, lt=100.0)
    """Rows above this percentile are dropped: always as many, and others again when applied again. Empty: no such limit."""

    max_perplexity: float | None = Field(default=None, gt=1.0)
    """Rows with a higher perplexity a character are dropped whatever the others have; empty: no such limit."""

    reference: ConfigPath | None = None
    """A UTF-8 text file of good examples, one a line; empty: the model learns from the data."""

    order: int = Field(default=5, ge=2, le=8)
    """Characters in the longest n-gram."""

    train_characters: int = Field(default=2_000_000, ge=1_000)
    """Each model reads at most this many characters; a million take some 150 MB while it is fitted."""

    min_characters: int = Field(default=20, ge=1)
    """Shorter texts are not judged: the mean of a few characters says nothing."""

    min_rows: int = Field(default=500, ge=2)
    """With fewer rows of a script nothing is learned and none is compared with the others."""

    of: Part = "all"
    """What is judged: prompt, answer or all."""

    seed: int = 0
    """Decides which rows the models read."""

    _notes: list[str] = PrivateAttr(default_factory=list)
    _scorer: Scorer | None = PrivateAttr(default=None)

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def scored_by(self, scorer: Scorer) -> Perplexity:
        """The same step with another language model, such as a causal model behind an engine."""
        step = self.model_copy()
        step._notes, step._scorer = [], scorer
        return step

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        texts = folded(part(frame, self.of).fill_null(""))
        size = texts.str.len_chars()
        rows = pl.DataFrame(
            {
                "draw": draws(frame["id"], self.seed),
                "cjk": texts.str.count_matches(CJK) > _CJK_SHARE * size,
                "size": pl.Series(size, dtype=pl.Int64),
            }
        )
        scorer = self._scorer or (
            _reference_model(self.reference, self.order, self.train_characters) if self.reference else None
        )
        if scorer is None:
            return rows.with_columns(text=texts, bits=pl.lit(None, dtype=pl.Float64))
        judged = rows["size"] >= self.min_characters
        nothing = pl.Series([None], dtype=pl.Float64).new_from_index(0, frame.height)
        bits = nothing.scatter(judged.arg_true(), scorer(texts.filter(judged)))
        return rows.with_columns(text=pl.lit(None, dtype=pl.String), bits=bits)

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        rows = (
            digests.select("at", "cjk", "bits", "draw", "size").filter(pl.col("size") >= self.min_characters).collect()
        )
        if self._scorer is None and self.reference is None:
            rows = self._scored(rows, digests)
        found = [self._judge(group, bool(cjk)) for (cjk,), group in rows.group_by("cjk", maintain_order=True)]
        return verdicts(pl.concat(found)) if found else no_verdicts()

    def _judge(self, rows: pl.DataFrame, cjk: bool) -> pl.DataFrame:
        """The rows of one script above a limit: at and reason."""
        scored = rows.drop_nulls("bits")
        if scored.height < self.min_rows and (self.max_deviations or self.percentile):
            script = "Chinese, Japanese or Korean" if cjk else "other"
            self._notes.append(
                f"{rows.height:,} {script} rows are too few to compare with each other: min_rows is {self.min_rows:,}"
            )
        reasons = [
            pl.when(pl.col("bits") > limit).then(
                pl.format(
                    f"perplexity: {{}} a character, above {2**limit:.1f} ({what})", (2 ** pl.col("bits")).round(1)
                )
            )
            for limit, what in self._limits(scored["bits"].to_numpy())
        ]
        return scored.select("at", reason=pl.coalesce(*reasons, pl.lit(None, dtype=pl.String)))

    def _limits(self, bits: Array) -> Iterator[tuple[float, str]]:
        """Bits a character above which a row is dropped, and where the limit comes from."""
        if self.max_perplexity is not None:
            yield float(np.log2(self.max_perplexity)), "max_perplexity"
        if len(bits) < self.min_rows:
            return
        if self.max_deviations is not None:
            median = np.median(bits)
            spread = _NORMAL * np.median(np.abs(bits - median))
            yield float(median + self.max_deviations * spread), f"{self.max_deviations:g} deviations above the median"
        if self.percentile is not None:
            yield float(np.percentile(bits, self.percentile, method="higher")), f"percentile {self.percentile:g}"

    def _scored(self, rows: pl.DataFrame, digests: pl.LazyFrame) -> pl.DataFrame:
        """The rows with their bits, cross-fitted: either half is scored by the model of the other half."""
        rows = rows.with_columns(half=pl.Series(rows["draw"].to_numpy() % np.uint64(2) == 1))
        models = self._models(rows, digests)
        bits = np.full(rows.height, np.nan)
        total = int(digests.select(pl.len()).collect().item())
        place = 0
        for start in track(range(0, total, _BATCH_ROWS), "measuring perplexity", unit="batches"):
            batch = digests.slice(start, _BATCH_ROWS).filter(pl.col("size") >= self.min_characters)
            texts = batch.select("text").collect()["text"]
            here = rows[place : place + len(texts)]
            for (cjk, half), model in models.items():
                at = ((here["cjk"] == cjk) & (here["half"] != half)).arg_true()
                bits[place + at.to_numpy()] = model.bits(texts.gather(at))
            place += len(texts)
        return rows.with_columns(bits=pl.Series(bits).fill_nan(None))

    def _models(self, rows: pl.DataFrame, digests: pl.LazyFrame) -> dict[tuple[bool, bool], KneserNey]:
        """(script is CJK, half) -> the model that has read a sample of those rows; none where there are too few."""
        models = {}
        for (cjk,), script in rows.group_by("cjk", maintain_order=True):
            if script.height < self.min_rows and self.max_perplexity is None:
                continue
            for (half,), part_ in script.sort("draw", "at").group_by("half", maintain_order=True):
                chosen = part_.filter(pl.col("size").cum_sum() - pl.col("size") < self.train_characters)["at"]
                texts = digests.filter(pl.col("at").is_in(chosen.implode())).select("text").collect()["text"]
                models[bool(cjk), bool(half)] = KneserNey.fit(texts, self.order)
        return models


@lru_cache(maxsize=2)
def _reference_model(path: Path, order: int, characters: int) -> Scorer:
    """The model of a reference file.

    Raises:
        ConfigError: The file cannot be read as UTF-8, or has no text.
    """
    try:
        lines = folded(pl.Series(path.read_text(encoding="utf-8-sig").splitlines(), dtype=pl.String))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the reference cannot be read: {error}", where=str(path), hint="one text a line, UTF-8"
        ) from None
    texts = lines.filter(lines != "")
    if not texts.len():
        raise ConfigError("the reference holds no text", where=str(path), hint="one text a line, UTF-8")
    size = texts.str.len_chars().cast(pl.Int64)
    return KneserNey.fit(texts.filter(size.cum_sum() - size < characters), order).bits
