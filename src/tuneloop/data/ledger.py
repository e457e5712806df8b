"""The ledger: what became of every input row. It holds raw text, also personal data: keep it as private as the source.

Columns: id, origin (``file:line``), file, line, fate (train, validation, test or dropped), step and reason of a drop,
partner (id of the row it duplicates), label, changed_by (steps that altered it), raw, messages (as they left the last
step), history (step, message, before, after), redactions (message, type, start, end before redaction).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tuneloop.data.artifact import LEDGER
from tuneloop.data.records import message
from tuneloop.errors import DataError
from tuneloop.rundir import RunDir, write_atomic
from tuneloop.types import Message

DROPPED = "dropped"


def build(frame: pl.DataFrame, splits: Mapping[str, str]) -> pl.DataFrame:
    """The ledger of a frame with all rows, alive and dropped.

    Args:
        splits: id -> split of every living row.
    """
    fate = pl.Series([splits.get(i, DROPPED) for i in frame["id"]], dtype=pl.String)
    return frame.with_columns(fate=fate).select(
        "id",
        "origin",
        pl.col("origin").str.replace(r":\d+(?:#\d+)?$", "").alias("file"),
        "line",
        "fate",
        pl.col("dropped_step").alias("step"),
        pl.col("dropped_reason").alias("reason"),
        "partner",
        "label",
        pl.col("history")
        .list.eval(pl.element().struct.field("step"))
        .list.unique(maintain_order=True)
        .alias("changed_by"),
        "raw",
        "messages",
        "history",
        "redactions",
    )


def check(ledger: pl.DataFrame, rows_in: int) -> None:
    """Promise 1: every row has exactly one line, and a fate; a dropped one has a step and a reason."""
    dropped = ledger["fate"] == DROPPED
    reasons = ledger["reason"].is_not_null() & ledger["step"].is_not_null()
    assert ledger.height == rows_in == int(dropped.sum()) + int((~dropped).sum()), "the ledger lost a row"
    assert ledger["id"].n_unique() == rows_in, "two rows share an id"
    assert (dropped == reasons).all(), "a row is dropped without a reason, or kept with one"


def write(ledger: pl.DataFrame, out: RunDir) -> None:
    buffer = io.BytesIO()
    ledger.write_parquet(buffer, compression="zstd")
    write_atomic(out / LEDGER, buffer.getvalue())


@dataclass(frozen=True, slots=True)
class Change:
    """One step changed one message; ``message`` counts from 0, and -1 - k is the reasoning of message k."""

    step: str
    message: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One row's way. ``messages`` is how it left the last step, without the system prompt that the split adds."""

    id: str
    origin: str
    raw: str
    fate: str
    step: str | None
    reason: str | None
    partner: str | None
    label: str | None
    changes: tuple[Change, ...]
    redactions: tuple[Mapping[str, Any], ...]
    messages: tuple[Message, ...]


def explain(folder: Path, row_id: str) -> Explanation:
    """Look a row up by id, by the beginning of an id, or by origin."""
    path = Path(folder) / LEDGER
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint="run the data stage: tuneloop data")
    if not row_id:
        raise DataError("no row is named", where=str(path), hint="give an id or an origin such as rows.csv:12")
    wanted = pl.col("id").str.starts_with(row_id) | (pl.col("origin") == row_id)
    found = pl.scan_parquet(path).filter(wanted).collect()
    if found.height == 0:
        raise DataError(
            f"there is no row {row_id!r}",
            where=str(path),
            hint="ids stand in train.jsonl and in the ledger; an origin such as rows.csv:12 works too",
        )
    if found.height > 1:
        some = ", ".join(found["id"].head(5))
        raise DataError(f"{found.height} rows begin with {row_id!r}", where=str(path), hint=f"give more of it: {some}")
    row = found.row(0, named=True)
    return Explanation(
        **{k: row[k] for k in ("id", "origin", "raw", "fate", "step", "reason", "partner", "label")},
        changes=tuple(Change(**change) for change in row["history"]),
        redactions=tuple(row["redactions"]),
        messages=tuple(message(turn) for turn in row["messages"]),
    )
