"""The part of a conversation that a step judges."""

from __future__ import annotations

from typing import Literal

import polars as pl

from tuneloop.data.frame import REJECTED, turns

Part = Literal["prompt", "answer", "all"]
"""prompt: everything but the last answer; answer: the last answer; all: both. System prompts and rejected answers: never."""

CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"


def messages(frame: pl.DataFrame, of: Part) -> pl.DataFrame:
    """The messages of that part, one a row: row (index into the frame), role, content."""
    flat = turns(frame).filter(~pl.col("role").is_in(["system", REJECTED]))
    answer = pl.col("message").filter(pl.col("role") == "assistant").max().over("row")
    is_answer = (pl.col("message") == answer).fill_null(False)
    wanted = {"all": pl.lit(True), "answer": is_answer, "prompt": ~is_answer}[of]
    return flat.filter(wanted).select("row", "role", "content")


def part(frame: pl.DataFrame, of: Part) -> pl.Series:
    """The text of that part of each row, messages joined by line breaks; null where the row has no such part."""
    joined = messages(frame, of).group_by("row", maintain_order=True).agg(text=pl.col("content").str.join("\n"))
    rows = frame.select(row=pl.int_range(pl.len(), dtype=pl.Int64))
    return rows.join(joined, on="row", how="left", maintain_order="left")["text"]
