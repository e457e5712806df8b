"""The same decisions about a frame that is held whole."""

from __future__ import annotations

import polars as pl

from tuneloop.data.config import DataConfig
from tuneloop.data.frame import SCHEMA, alive, drop
from tuneloop.data.split.decide import Decided, decide
from tuneloop.data.split.digests import SAMPLE, STEP, digest, prompt_keys


def divide(frame: pl.DataFrame, config: DataConfig) -> Decided:
    """Digest and decide in one call; ``frame`` holds living rows."""
    return decide(digest(frame, config).lazy().with_row_index("at").with_columns(pl.col("at").cast(pl.Int64)), config)


def shared_prompts(frame: pl.DataFrame, splits: pl.Series) -> int:
    """How many prompts stand in more than one split."""
    return int(
        pl.DataFrame({"key": prompt_keys(frame), "split": splits})
        .group_by("key")
        .agg(pl.col("split").n_unique())
        .filter(pl.col("split") > 1)
        .height
    )


def drop_leaks(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop free rows whose prompt stands in a prescribed test or validation source, whatever their answer."""
    after, _ = _dropped(frame, DataConfig(sources=("-",), stratify_columns=(), near_leaks=None))
    return after


def sample(frame: pl.DataFrame, config: DataConfig) -> tuple[pl.DataFrame, list[str]]:
    """Drop leaks, and what the samples of the sources leave out; returns warnings too."""
    return _dropped(frame, config)


def assign(frame: pl.DataFrame, config: DataConfig) -> pl.Series:
    """The split of every row of a frame of living rows, in its order."""
    return divide(frame, config).verdicts["split"]


def _dropped(frame: pl.DataFrame, config: DataConfig) -> tuple[pl.DataFrame, list[str]]:
    living = frame.filter(alive())
    decided = divide(living, config)
    verdicts = living.select("id").with_columns(decided.verdicts.select("step", "reason", verdict_partner="partner"))
    judged = frame.join(verdicts, on="id", how="left", maintain_order="left")
    for step in (STEP, SAMPLE):
        reason = pl.when(judged["step"] == step).then(judged["reason"])
        frame = drop(frame, step, reason, judged["verdict_partner"])
    return frame.select(list(SCHEMA)), list(decided.notes)
