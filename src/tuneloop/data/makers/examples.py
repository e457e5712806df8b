"""Real rows to show to a model: a few of each class, drawn from the training split without holding it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from tuneloop.data import personal
from tuneloop.data.frame import is_classification
from tuneloop.data.makers.rows import dice, places

POOL = 200
"""Rows of each class that examples are drawn from."""
_KEPT = ("id", "label", "source", "messages", "fields")


class Kind(NamedTuple):
    """Rows that are asked for together: one class ('' where there is none), answered by its class or by a text."""

    label: str
    classified: bool


class Example(NamedTuple):
    """A real row that may be shown."""

    id: str
    source: int | None
    turns: Sequence[Mapping[str, Any]]
    fields: str | None


def pools(parts: Iterable[pl.DataFrame], seed: int) -> dict[Kind, list[Example]]:
    """Up to ``POOL`` rows of each kind, in a drawn order. Only rows with one question, no tools and no media can be shown."""
    kept: pl.DataFrame | None = None
    for part in parts:
        rows = part.filter(_can_be_shown())
        marked = rows.select(*_KEPT, kind=is_classification(rows)).with_columns(
            place=pl.Series(places(rows["id"], seed, "examples"), dtype=pl.UInt64), label=pl.col("label").fill_null("")
        )
        together = marked if kept is None else pl.concat([kept, marked])
        ordered = together.sort("label", "kind", "place", "id")
        kept = ordered.filter(pl.int_range(pl.len()).over("label", "kind") < POOL)
    found: dict[Kind, list[Example]] = {}
    for row in kept.iter_rows(named=True) if kept is not None else ():
        example = Example(row["id"], row["source"], row["messages"], row["fields"])
        found.setdefault(Kind(row["label"], row["kind"]), []).append(example)
    return found


def _can_be_shown() -> pl.Expr:
    turn = pl.element().struct
    roles = pl.col("messages").list.eval(turn.field("role"))
    extra = pl.col("messages").list.eval(turn.field("tool_calls").is_not_null() | turn.field("media").is_not_null())
    answers = roles.list.count_matches("assistant")
    answered = (answers == 1) | ((answers == 0) & pl.col("label").is_not_null())
    return (roles.list.count_matches("user") == 1) & answered & ~extra.list.any() & pl.col("tools").is_null()


def draw(pool: Sequence[Example], count: int, seed: int, what: str) -> list[Example]:
    """Examples of one request: another choice for each ``what``."""
    return dice(what, seed, "request").sample(list(pool), min(count, len(pool)))


def shown(example: Example, kind: Kind, properties: Iterable[str]) -> dict[str, Any]:
    """A row as an object with the properties that are asked for.

    Personal data is masked, whatever the steps of the project are: examples may leave the machine.
    """
    said = {turn["role"]: turn for turn in example.turns}
    row: dict[str, Any] = json.loads(example.fields) if example.fields else {}
    row["label"] = kind.label
    if kind.classified:
        row["text"] = said["user"]["content"]
    else:
        row |= {"prompt": said["user"]["content"], "response": said["assistant"]["content"]}
        row["reasoning"] = said["assistant"]["reasoning"]
    return {name: _masked(row[name]) for name in properties if row.get(name) is not None}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return personal.mask(value)
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return {key: _masked(item) for key, item in value.items()} if isinstance(value, dict) else value
