"""A part of a file at once: what ``Detected.parse`` says row by row, as columns of the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tuneloop.data.formats.kept import fields_json
from tuneloop.data.formats.nouns import Detected, Parsed, Row, Unusable
from tuneloop.data.frame import SCHEMA, make_frame

UNDERSTOOD = ("messages", "label", "desirable", "tools", "fields")


def understand_all(rows: Sequence[Row], detected: Detected) -> pl.DataFrame:
    """Columns ``messages, label, desirable, tools, fields`` of the frame, and ``problem``: why a row is unusable.

    Args:
        rows: The fields of readable rows.
        detected: Their format.
    """
    if detected.flat is None:
        return _one_by_one(rows, detected)
    plain = detected.flat.columns(rows)
    fields = [fields_json(row, detected.keep) for row in rows] if detected.keep else None
    return plain.with_columns(
        desirable=pl.lit(None, dtype=SCHEMA["desirable"]),
        tools=pl.lit(None, dtype=SCHEMA["tools"]),
        fields=pl.lit(None, dtype=SCHEMA["fields"]) if fields is None else pl.Series(fields, dtype=SCHEMA["fields"]),
        problem=pl.lit(None, dtype=pl.String),
    )


def _one_by_one(rows: Sequence[Row], detected: Detected) -> pl.DataFrame:
    parsed: list[Parsed] = []
    problems: list[str | None] = []
    nothing = Parsed([])
    for row in rows:
        try:
            parsed.append(detected.parse(row))
            problems.append(None)
        except Unusable as error:
            parsed.append(nothing)
            problems.append(str(error))
    columns: dict[str, list[Any]] = {
        "id": [""] * len(rows),
        "messages": [p.turns for p in parsed],
        "label": [p.label for p in parsed],
        "desirable": [p.desirable for p in parsed],
        "tools": [p.tools for p in parsed],
        "fields": [p.fields for p in parsed],
    }
    return make_frame(columns).select(*UNDERSTOOD, problem=pl.Series(problems, dtype=pl.String))
