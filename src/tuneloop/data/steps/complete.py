"""Rows that say nothing, and rows that were cut off."""

from __future__ import annotations

from typing import ClassVar

import polars as pl

from tuneloop.data.frame import REJECTED, drop, spoken, turns
from tuneloop.data.steps import StepBase


def _turn(field: str) -> pl.Expr:
    return pl.element().struct.field(field)


def _shows() -> pl.Expr:
    return _turn("media").is_not_null()


class Empty(StepBase):
    """Drops rows in which the user (or, for plain text, anybody) says and shows nothing, and those whose answers are
    all blank: a model would learn from them to say nothing."""

    name: ClassVar[str] = "empty"

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        said = spoken(frame, prompt_only=True).str.strip_chars()
        shown = frame["messages"].list.eval(_shows()).list.any()
        answers = _turn("role") == "assistant"
        speaks = (_turn("content").str.strip_chars() != "") | _turn("tool_calls").is_not_null() | _shows()
        silent = frame["messages"].list.eval(answers.any() & ~(answers & speaks).any()).list.first()
        reasons = (
            pl.when(silent)
            .then(pl.lit("empty: the answer is empty"))
            .when(shown)
            .then(None)
            .when(said == "")
            .then(pl.lit("empty: there is no text"))
            .when(~said.str.contains(r"[\p{L}\p{N}\p{S}]"))  # symbols: an emoji says something
            .then(pl.lit("empty: there is nothing but punctuation"))
        )
        return drop(frame, self.name, reasons)


class Truncated(StepBase):
    """Drops rows without an answer. Turns after the last answer are cut off: nobody answered them."""

    name: ClassVar[str] = "truncated"

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        flat, said = turns(frame), pl.col("content").str.strip_chars() != ""
        last = flat.group_by("row").agg(
            turns=(pl.col("role") != REJECTED).sum(),
            answer=pl.col("message")
            .filter((pl.col("role") == "assistant") & (said | pl.col("tool_calls").is_not_null()))
            .max(),
            assistant=(pl.col("role") == "assistant").any(),
        )
        state = (
            frame.select("label", "messages", row=pl.int_range(pl.len(), dtype=pl.Int64))
            .join(last, on="row", how="left", maintain_order="left")
            .with_columns(assistant=pl.col("assistant").fill_null(False))
        )
        answered = pl.col("answer").is_not_null()
        classified = ~pl.col("assistant") & pl.col("label").is_not_null()
        reasons = state.select(
            reason=pl.when(answered | classified)
            .then(None)
            .when(pl.col("assistant"))
            .then(pl.lit("no answer: the answer is empty"))
            .otherwise(pl.lit("no answer: neither an answer nor a class"))
        )["reason"]
        kept = state.select(
            pl.when(answered & (pl.col("answer") + 1 < pl.col("turns")))
            .then(pl.col("messages").list.head(pl.col("answer") + 1))
            .otherwise("messages")
            .alias("messages")
        )["messages"]
        return drop(self._note_cuts(frame, state, kept), self.name, reasons)

    def _note_cuts(self, frame: pl.DataFrame, state: pl.DataFrame, kept: pl.Series) -> pl.DataFrame:
        """Write the cut conversations back, with the first lost turn in the history."""
        cut = kept.list.len() < frame["messages"].list.len()
        if not cut.any():
            return frame
        note = pl.concat_list(
            pl.struct(
                step=pl.lit(self.name),
                message=pl.col("_at").cast(pl.Int32),
                before=pl.col("messages").list.get(pl.col("_at"), null_on_oob=True).struct.field("content"),
                after=pl.lit(""),
            )
        )
        return (
            frame.with_columns(_at=state["answer"] + 1, _cut=cut, _kept=kept)
            .with_columns(
                history=pl.when("_cut").then(pl.concat_list("history", note)).otherwise("history"),
                messages="_kept",
            )
            .drop("_at", "_cut", "_kept")
        )
