"""The part of a conversation that a step judges."""

from __future__ import annotations

from typing import Literal

import polars as pl

from tuneloop.data.frame import REJECTED, spoken, turns

Part = Literal["prompt", "answer", "all"]
"""prompt: everything but the last answer; answer: the last answer; all: both. System prompts and rejected answers: never."""

CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"


def part(frame: pl.DataFrame, of: Part) -> pl.Series:
    """The text of that part of each row, turns joined by line breaks; null where the row has no such part."""
    if of == "all":
        return spoken(frame, prompt_only=False)
    flat = turns(frame).filter(~pl.col("role").is_in(["system", REJECTED]))
    last = (pl.col("message") == pl.col("message").filter(pl.col("role") == "assistant").max().over("row")).fill_null(
        False
    )
    wanted = flat.filter(last if of == "answer" else ~last)
    joined = wanted.group_by("row", maintain_order=True).agg(text=pl.col("content").str.join("\n"))
    rows = frame.select(row=pl.int_range(pl.len(), dtype=pl.Int64))
    return rows.join(joined, on="row", how="left", maintain_order="left")["text"]
