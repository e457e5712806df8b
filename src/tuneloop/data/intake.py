"""Raw files -> the first frame: every physical row is in it, the unreadable ones with their reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from tuneloop.data import formats, personal, sources
from tuneloop.data.config import DataConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.readers.encoding import replace_surrogates
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError
from tuneloop.progress import log, track
from tuneloop.types import record_id

_FILLED = ("id", "origin", "line", "raw", "source", "pinned", "messages", "label", "dropped_step", "dropped_reason")


@dataclass(frozen=True, slots=True)
class Intake:
    """All rows, and what was found out about each file."""

    frame: pl.DataFrame
    detected: str
    files: tuple[Mapping[str, Any], ...]


def take_in(config: DataConfig) -> Intake:
    """Read every source, detect its format and say so.

    Raises:
        DataError: A file is missing, empty, not text, or has no usable column.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _FILLED}
    found: list[dict[str, Any]] = []
    for file in track(sources.files(config), "reading", unit="files"):
        raw = sources.read(config, file)
        _refuse_unreadable(raw)
        detected = formats.detect(raw, config)
        before = len(columns["id"])
        pinned = config.sources[file.source].split
        rows = list(raw.rows)
        for row in track(rows, f"reading {raw.name}", unit="rows"):
            _append(columns, row, raw.name, detected, file.source, pinned)
        found.append(
            {
                "file": raw.name,
                "rows": len(rows),
                "format": detected.kind,
                "detected": detected.words,
                "unused_columns": [c for c in raw.columns if c not in detected.used],
                "split": pinned,
                **raw.facts,
            }
        )
        _announce(found[-1], columns, before)
    words = dict.fromkeys(str(f["detected"]) for f in found)
    return Intake(make_frame(columns), "; ".join(words), tuple(found))


def _refuse_unreadable(raw: RawFile) -> None:
    if not raw.head:
        raise DataError("the file holds no rows", where=f"{raw.name}:1", hint="check the export that wrote it")
    if all(row.problem for row in raw.head):
        first = raw.head[0]
        assert first.problem is not None
        raise DataError(
            f"none of its first {len(raw.head):,} rows can be read; the first: {first.problem[1]}",
            where=first.origin(raw.name),
            hint="check that the file is what its name says; data.encoding and data.delimiter override what is detected",
        )


def _append(
    columns: dict[str, list[Any]],
    row: RawRow,
    name: str,
    detected: formats.Detected,
    source: int,
    pinned: str | None,
) -> None:
    origin = row.origin(name)
    raw = replace_surrogates(row.raw)
    problem, parsed = row.problem, formats.Parsed([])
    if problem is None:
        try:
            parsed = formats.understand(row, detected)
        except formats.Unusable as error:
            problem = (READ, str(error))
    step, reason = problem or (None, None)
    values = {
        "id": record_id(raw, origin),
        "origin": origin,
        "line": row.line,
        "raw": raw,
        "source": source,
        "pinned": pinned,
        "messages": parsed.turns,
        "label": parsed.label,
        "dropped_step": step,
        "dropped_reason": reason,
    }
    for column, held in columns.items():
        held.append(values[column])


def _announce(facts: Mapping[str, Any], columns: Mapping[str, list[Any]], before: int) -> None:
    log(f"{facts['file']}: {facts['rows']:,} rows, {facts['encoding']}, {facts['detected']}")
    if facts["unused_columns"]:
        log(f"  not used: {', '.join(facts['unused_columns'][:12])}")
    for turns, label in zip(columns["messages"][before:], columns["label"][before:], strict=True):
        if turns and turns[0]["content"].strip():
            said = [f"{t['role']}: {_short(t['content'])}" for t in turns[:3]]
            if label is not None:
                said.append(f"class: {_short(label)}")
            log("  e.g. " + " | ".join(said))
            break
    log("  not what you meant? set data.format, data.prompt_column, data.response_column or data.label_column")


def _short(text: str) -> str:
    line = " ".join(personal.mask(text).split())
    return line if len(line) <= 70 else line[:69] + "…"
