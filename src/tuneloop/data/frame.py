"""The frame that every step sees: one row a conversation, columnar.

id, origin, file, line, raw     where the row comes from; ``origin`` is ``file:line``
source, pinned                  index of the source; the split its source prescribes (or null)
messages                        list of {role, content, reasoning, tool_calls, media}; a classification row has no assistant turn;
                                the worse answer of a preference pair stands last, with the role ``rejected``;
                                tool_calls and media are JSON arrays as text (see types.ToolCall, types.Media), or null
label                           its class, or null
desirable                       verdict of a KTO row, or null
tools                           JSON array of function schemas as text, or null
fields                          JSON object as text of the columns that the project keeps (strata, groups, entities), or null
parents                         ids of the rows a derived row was made from
dropped_step, dropped_reason    null while the row is alive; a reason reads ``category: detail``
partner                         id of the row that a duplicate or a leak duplicates
group                           rows of one group go into the same split
history                         list of {step, message, before, after}: what a step changed; message is null where it was the class
redactions                      list of {message, type, start, end}: offsets into the text before redaction
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

TURN = pl.Struct(dict.fromkeys(("role", "content", "reasoning", "tool_calls", "media"), pl.String()))
REJECTED = "rejected"
"""The role of a preference pair's worse answer, inside a frame only: steps clean it like any other turn."""
CHANGE = pl.Struct({"step": pl.String, "message": pl.Int32, "before": pl.String, "after": pl.String})
SPAN = pl.Struct({"message": pl.Int32, "type": pl.String, "start": pl.Int32, "end": pl.Int32})
SCHEMA: Mapping[str, Any] = {
    "id": pl.String,
    "origin": pl.String,
    "file": pl.String,
    "line": pl.Int64,
    "raw": pl.String,
    "source": pl.Int32,
    "pinned": pl.String,
    "messages": pl.List(TURN),
    "label": pl.String,
    "desirable": pl.Boolean,
    "tools": pl.String,
    "fields": pl.String,
    "parents": pl.List(pl.String),
    "dropped_step": pl.String,
    "dropped_reason": pl.String,
    "partner": pl.String,
    "group": pl.String,
    "history": pl.List(CHANGE),
    "redactions": pl.List(SPAN),
}
VERDICTS: Mapping[str, Any] = {"at": pl.Int64, "reason": pl.String, "partner": pl.String, "group": pl.String}
"""What a whole-data step decides about the row at position ``at``: a reason drops it; a group keeps rows together."""
REASONING = -1
"""``message`` of a change in the reasoning of message k is ``-1 - k``."""


def empty_frame() -> pl.DataFrame:
    return pl.DataFrame(schema=dict(SCHEMA))


def make_frame(columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """A frame from columns; those not given are null (lists: empty). ``messages`` are lists of {role, content, ...}."""
    height = len(columns["id"])
    series = []
    for name, kind in SCHEMA.items():
        if name == "messages":
            series.append(_messages(columns[name]))
        elif name in columns:
            series.append(pl.Series(name, columns[name], dtype=kind, strict=True))
        else:
            nothing: list[Any] = [[] if isinstance(kind, pl.List) else None]
            series.append(pl.Series(name, nothing, dtype=kind).new_from_index(0, height))
    return pl.DataFrame(series)


def _messages(conversations: Sequence[Sequence[Mapping[str, str | None]]]) -> pl.Series:
    """Nested turns as one List column; built flat, because polars converts nested Python objects one by one."""
    flat = pl.DataFrame(
        {
            "row": [row for row, turns_ in enumerate(conversations) for _ in turns_],
            **{key: [turn.get(key) for turns_ in conversations for turn in turns_] for key in TURN.to_schema()},
        },
        schema={"row": pl.Int64, **TURN.to_schema()},
    )
    nested = flat.group_by("row", maintain_order=True).agg(messages=pl.struct(*TURN.to_schema()))
    return (
        pl.select(row=pl.int_range(len(conversations), dtype=pl.Int64))
        .join(nested, on="row", how="left", maintain_order="left")["messages"]
        .fill_null(pl.Series([[]], dtype=pl.List(TURN)))
    )


def alive() -> pl.Expr:
    return pl.col("dropped_step").is_null()


def drop(
    frame: pl.DataFrame, step: str, reasons: pl.Expr | pl.Series, partner: pl.Expr | pl.Series | None = None
) -> pl.DataFrame:
    """Write a reason into the living rows where ``reasons`` is not null."""
    columns = {"_reason": reasons, "_partner": pl.lit(None, dtype=pl.String) if partner is None else partner}
    hit = alive() & pl.col("_reason").is_not_null()
    return (
        frame.with_columns(**columns)
        .with_columns(
            dropped_reason=pl.when(hit).then("_reason").otherwise("dropped_reason"),
            partner=pl.when(hit).then("_partner").otherwise("partner"),
            dropped_step=pl.when(hit).then(pl.lit(step)).otherwise("dropped_step"),
        )
        .drop("_reason", "_partner")
    )


def settle(frame: pl.DataFrame, step: str, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Write a whole-data step's verdicts (``VERDICTS`` and, from some, ``label``; ``at`` counted in this frame)."""
    judged = (
        frame.select(at=pl.int_range(pl.len(), dtype=pl.Int64))
        .join(verdicts, on="at", how="left", maintain_order="left")
        .rename({"group": "new_group"})
    )
    grouped = frame.with_columns(group=pl.coalesce(judged["new_group"], frame["group"]))
    if "label" in judged.columns:
        grouped = _relabel(grouped, step, judged["label"])
    return drop(grouped, step, judged["reason"], judged["partner"])


def _relabel(frame: pl.DataFrame, step: str, labels: pl.Series) -> pl.DataFrame:
    """Give rows a new class where ``labels`` is not null and differs, and note the old one in ``history``."""
    marked = frame.with_columns(_new=labels)
    change = pl.struct(
        step=pl.lit(step), message=pl.lit(None, dtype=pl.Int32), before=pl.col("label"), after=pl.col("_new")
    )
    changed = pl.col("_new").ne_missing(pl.col("label")) & pl.col("_new").is_not_null()
    return marked.with_columns(
        label=pl.coalesce("_new", "label"),
        history=pl.when(changed).then(pl.concat_list("history", change)).otherwise("history"),
    ).drop("_new")


def turns(frame: pl.DataFrame) -> pl.DataFrame:
    """One row a turn: row (index into the frame), message (index into the conversation), and the fields of ``TURN``."""
    return (
        frame.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"), "messages")
        .filter(pl.col("messages").list.len() > 0)
        .with_columns(message=pl.int_ranges(pl.col("messages").list.len(), dtype=pl.Int32))
        .explode("messages", "message")
        .unnest("messages")
    )


def rewrite(frame: pl.DataFrame, step: str, change: Callable[[pl.Series], pl.Series]) -> pl.DataFrame:
    """Apply a vectorised text function to every content and reasoning, and note in ``history`` what changed.

    Args:
        change: Takes a String series without nulls, returns the new texts in the same order.
    """
    flat = turns(frame)
    after = flat.with_columns(new=change(flat["content"]), new_reasoning=pl.col("reasoning"))
    thinking = flat.filter(pl.col("reasoning").is_not_null())
    if thinking.height:
        thought = thinking.select("row", "message", new_reasoning=change(thinking["reasoning"]))
        after = after.drop("new_reasoning").join(thought, on=["row", "message"], how="left", maintain_order="left")
    changed = after.filter(
        (pl.col("new") != pl.col("content")) | pl.col("new_reasoning").ne_missing(pl.col("reasoning"))
    )
    if not changed.height:
        return frame
    return _with_changes(frame, step, after.filter(pl.col("row").is_in(changed["row"].unique().implode())))


def _with_changes(frame: pl.DataFrame, step: str, after: pl.DataFrame) -> pl.DataFrame:
    """Put rewritten turns (of the rows in which something changed) back into the frame."""
    contents = after.filter(pl.col("new") != pl.col("content")).select(
        "row", step=pl.lit(step), message="message", before="content", after="new"
    )
    thoughts = after.filter(pl.col("new_reasoning").ne_missing(pl.col("reasoning"))).select(
        "row",
        step=pl.lit(step),
        message=(REASONING - pl.col("message")).cast(pl.Int32),
        before="reasoning",
        after="new_reasoning",
    )
    notes = (
        pl.concat([contents, thoughts])
        .group_by("row", maintain_order=True)
        .agg(new_history=pl.struct("step", "message", "before", "after"))
    )
    rewritten = {"content": pl.col("new"), "reasoning": pl.col("new_reasoning")}
    texts = after.group_by("row", maintain_order=True).agg(
        new_messages=pl.struct(rewritten.get(name, pl.col(name)).alias(name) for name in TURN.to_schema())
    )
    updates = texts.join(notes, on="row", how="left")
    return (
        frame.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        .join(updates, on="row", how="left", maintain_order="left")
        .with_columns(
            messages=pl.coalesce("new_messages", "messages"),
            history=pl.when(pl.col("new_history").is_not_null())
            .then(pl.concat_list("history", "new_history"))
            .otherwise("history"),
        )
        .select(list(SCHEMA))
    )


def is_classification(frame: pl.DataFrame) -> pl.Series:
    """Whether the class itself is the answer: a label and no assistant turn."""
    return frame.select(
        pl.col("label").is_not_null()
        & ~pl.col("messages").list.eval(pl.element().struct.field("role") == "assistant").list.any()
    ).to_series()


def spoken(frame: pl.DataFrame, *, prompt_only: bool) -> pl.Series:
    """The text of each conversation without system prompts and rejected answers, turns joined by line breaks.

    Args:
        prompt_only: Leave the last assistant turn out. Rows without any other turn (plain text) keep it.
    """
    flat = turns(frame).filter(~pl.col("role").is_in(["system", REJECTED]))
    if prompt_only:
        answers = pl.col("message").filter(pl.col("role") == "assistant").max().over("row")
        several = pl.len().over("row") > 1
        flat = flat.filter(~((pl.col("message") == answers) & several).fill_null(False))
    joined = flat.group_by("row", maintain_order=True).agg(text=pl.col("content").str.join("\n"))
    return (
        frame.select(row=pl.int_range(pl.len(), dtype=pl.Int64))
        .join(joined, on="row", how="left", maintain_order="left")["text"]
        .fill_null("")
    )


def comparable(texts: pl.Series) -> pl.Series:
    """Texts as duplicates are compared: compatibility forms unified, lower case, single spaces, no closing marks.

    A text of nothing but marks stays as it is.
    """
    # NFKC first: full-width letters have a lower case only after it.
    folded = texts.str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    short = folded.str.strip_chars_end(" .!?,;:。~")
    return short.zip_with(short != "", folded).rename("comparable")
