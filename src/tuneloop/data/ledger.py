"""The ledger: what became of every input row. It holds raw text, also personal data: keep it as private as the source.

Columns: id, origin (``file:line``), file, line, fate (train, validation, test or dropped), step and reason of a drop,
partner (id of the row it duplicates), label, parents (of a derived row), changed_by (steps that altered it), raw, messages (as they left the last
step), history (step, message, before, after), redactions (message, type, start, end before redaction).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tuneloop.data import tally
from tuneloop.data.artifact import LEDGER
from tuneloop.data.frame import alive
from tuneloop.data.parts import Work
from tuneloop.data.records import message
from tuneloop.errors import DataError
from tuneloop.rundir import RunDir, disk_error, disk_error_in, replacing
from tuneloop.types import Message

DROPPED = tally.DROPPED
_ROW_GROUP = 50_000


def build(frame: pl.DataFrame, splits: pl.Series) -> pl.DataFrame:
    """The ledger of a frame with all rows, alive and dropped.

    Args:
        splits: The split of every living row, in order.
    """
    living = frame.select(alive()).to_series()
    places = pl.select(at=pl.int_range(frame.height, dtype=pl.UInt32)).filter(living).with_columns(fate=splits)
    fates = (
        pl.select(at=pl.int_range(frame.height, dtype=pl.UInt32))
        .join(places, on="at", how="left", maintain_order="left")["fate"]
        .fill_null(DROPPED)
    )
    steps = pl.col("history").list.eval(pl.element().struct.field("step")).list.unique(maintain_order=True)
    return frame.with_columns(fate=fates).select(
        "id",
        "origin",
        "file",
        "line",
        "fate",
        pl.col("dropped_step").alias("step"),
        pl.col("dropped_reason").alias("reason"),
        "partner",
        "label",
        "parents",
        steps.alias("changed_by"),
        "raw",
        "messages",
        "history",
        "redactions",
    )


def join(work: Work, parts: Sequence[int], out: RunDir) -> None:
    """Put the parts of the ledger together, as a stream."""
    path = out / LEDGER
    try:
        with replacing(path) as temporary:
            pl.scan_ipc([work.path("ledger", part) for part in parts]).sink_parquet(
                temporary, compression="zstd", row_group_size=_ROW_GROUP, maintain_order=True
            )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise (
            disk_error(error, path) if isinstance(error, OSError) else disk_error_in(error, path) or error
        ) from error


def check(path: Path, rows_in: int, derived: int) -> None:
    """Promise 1: every row has exactly one line, and a fate; a dropped one has a step and a reason."""
    lines = pl.scan_parquet(path)
    dropped = pl.col("fate") == DROPPED
    reasons = pl.col("reason").is_not_null() & pl.col("step").is_not_null()
    found = lines.select(
        rows=pl.len(),
        ids=pl.col("id").n_unique(),
        wrong=(dropped != reasons).sum(),
        born=(pl.col("parents").list.len() > 0).sum(),
    ).collect(engine="streaming")
    rows, ids, wrong, born = found.row(0)
    assert rows - born == rows_in, f"the ledger lost a row: {rows - born:,} lines for {rows_in:,} rows"
    assert born == derived, f"the ledger lost a derived row: {born:,} lines for {derived:,}"
    assert ids == rows, "two rows share an id"
    assert not wrong, "a row is dropped without a reason, or kept with one"


def clusters(path: Path, most: int = 20) -> list[dict[str, Any]]:
    """The largest groups of duplicates: the kept row, and how many rows say the same."""
    copies = pl.scan_parquet(path).filter(pl.col("partner").is_not_null())
    first = pl.col("at").min()
    counted = (
        copies.with_row_index("at")
        .group_by("partner")
        .agg(first, copies=pl.len())
        .sort("copies", "at", descending=[True, False])
    )
    top = counted.head(most).collect()
    return [{"id": row["partner"], "rows": row["copies"] + 1} for row in top.iter_rows(named=True)]


def raw_of(path: Path, ids: Sequence[str]) -> dict[str, str]:
    """The raw text of some rows."""
    found = pl.scan_parquet(path).filter(pl.col("id").is_in(list(ids))).select("id", "raw").collect()
    return dict(found.iter_rows())


@dataclass(frozen=True, slots=True)
class Change:
    """One step changed one message; ``message`` counts from 0, -1 - k is the reasoning of message k, None is the class."""

    step: str
    message: int | None
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
