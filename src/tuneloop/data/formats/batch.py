"""A part of a file at once: what ``Detected.parse`` says row by row, as columns of the frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tuneloop.data.formats.kept import fields_json
from tuneloop.data.formats.nouns import Detected, Parsed, Row, Unusable
from tuneloop.data.frame import SCHEMA, TURN

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
    flat: dict[str, list[str | None]] = {key: [] for key in TURN.to_schema()}
    beside: dict[str, list[Any]] = {key: [] for key in (*UNDERSTOOD[1:], "problem")}
    sizes, nothing, problem = [], Parsed([]), None
    for row in rows:
        try:
            parsed, problem = detected.parse(row), None
        except Unusable as error:
            parsed, problem = nothing, str(error)
        # Flat at once: a million small objects that stay alive cost more than understanding them.
        for turn in parsed.turns:
            for key, held in flat.items():
                held.append(turn.get(key))
        sizes.append(len(parsed.turns))
        for column, value in zip(beside.values(), (*parsed[1:], problem), strict=True):
            column.append(value)
    kinds = {**{key: SCHEMA[key] for key in UNDERSTOOD[1:]}, "problem": pl.String()}
    return pl.DataFrame([_nested(flat, sizes), *(pl.Series(key, beside[key], dtype=kinds[key]) for key in beside)])


def _nested(flat: Mapping[str, list[str | None]], sizes: Sequence[int]) -> pl.Series:
    """Turns in one row -> conversations of these sizes."""
    index = np.repeat(np.arange(len(sizes)), sizes)
    turns = pl.DataFrame(flat, schema=TURN.to_schema()).with_columns(row=pl.Series(index, dtype=pl.Int64).set_sorted())
    talks = turns.group_by("row", maintain_order=True).agg(messages=pl.struct(*TURN.to_schema()))
    if talks.height == len(sizes):
        return talks["messages"]
    all_rows = pl.select(row=pl.int_range(len(sizes), dtype=pl.Int64))
    joined = all_rows.join(talks, on="row", how="left", maintain_order="left")["messages"]
    return joined.fill_null(pl.Series([[]], dtype=pl.List(TURN)))
