"""Rows that are nothing but columns of text: one row at a time, or a whole part of a file at once.

``Flat.parse`` is the plain way and the oracle; ``Flat.columns`` computes the same with polars, for millions of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tuneloop.data.formats.nouns import Parsed, Row, Turn, says, unique
from tuneloop.data.formats.values import first, label, text

_SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace())
"""What Python calls space; polars' own strip leaves the separators U+001C to U+001F."""


@dataclass(frozen=True, slots=True)
class Flat:
    """Which columns are asked (joined by line breaks, blank ones left out), answered, and so on.

    The title stands on a line of its own before what is asked (or answered, where nothing is asked), unless it is
    repeated there.
    """

    asked: tuple[str, ...]
    answered: str | None = None
    title: str | None = None
    system: str | None = None
    label: str | None = None

    @property
    def used(self) -> tuple[str, ...]:
        return unique(*self.asked, self.answered, self.title, self.label, self.system)

    def parse(self, row: Row) -> Parsed:
        """One row."""
        get = row.get
        turns = []
        if self.system and (told := text(get(self.system))).strip():
            turns.append(says("system", told))
        if self.asked:
            turns.append(says("user", self._asked(row)))
        if self.answered:
            said = first(get(self.answered))
            turns.append(says("assistant", said if self.asked else self._titled(row, said)))
        return Parsed(turns, label(get(self.label)) if self.label else None)

    def _asked(self, row: Row) -> str:
        if len(self.asked) == 1:
            said = first(row.get(self.asked[0]))
            return self._titled(row, said) if self.title else said
        parts = [first(row.get(column)) for column in self.asked]
        return self._titled(row, "\n".join(part for part in parts if part.strip()))

    def _titled(self, row: Row, said: str) -> str:
        heading = text(row.get(self.title)).strip() if self.title else ""
        if not heading or heading in said:
            return said
        return f"{heading}\n{said}" if said.strip() else heading

    def prompt(self, row: Row) -> list[Turn]:
        """What stands before the answer."""
        return [turn for turn in self.parse(row).turns if turn["role"] != "assistant"]

    def columns(self, rows: Sequence[Row]) -> pl.DataFrame:
        """Many rows: ``messages`` and ``label`` as the frame has them, in the same order."""
        convert = {
            **{column: text for column in (self.title, self.system) if column},
            **({self.label: lambda value: label(value) or ""} if self.label else {}),
            **{column: first for column in (*self.asked, self.answered) if column},
        }
        table = pl.DataFrame([_series(rows, column, convert[column]) for column in self.used])
        title = pl.col(self.title).str.strip_chars(_SPACE) if self.title else None
        turns: list[tuple[str, pl.Expr]] = []
        if self.asked:
            filled = [pl.when(~_blank(pl.col(c))).then(pl.col(c)) for c in self.asked]
            several = pl.concat_str(filled, separator="\n", ignore_nulls=True)
            said = several if len(filled) > 1 else pl.col(self.asked[0])
            turns.append(("user", said if title is None else _headed(title, said)))
        if self.answered:
            said = pl.col(self.answered)
            turns.append(("assistant", said if title is None or self.asked else _headed(title, said)))
        messages = _conversations(table, turns)
        if self.system:
            told = _conversations(table, [("system", pl.col(self.system)), *turns])
            messages = messages.zip_with(table.select(_blank(pl.col(self.system))).to_series(), told)
        named: pl.Expr = pl.lit(None, dtype=pl.String)
        if self.label:
            line = pl.col(self.label).str.replace_all(f"[{_SPACE}]+", " ").str.strip_chars(" ")
            named = pl.when(line != "").then(line)
        return table.select(messages=messages, label=named)


def _series(rows: Sequence[Row], column: str, as_text: Callable[[Any], str]) -> pl.Series:
    values = [row.get(column) for row in rows]
    try:
        return pl.Series(column, values, dtype=pl.String, strict=True).fill_null("")
    except (TypeError, UnicodeEncodeError):  # numbers, lists, half characters: one by one
        return pl.Series(column, [as_text(value) for value in values], dtype=pl.String)


def _blank(column: pl.Expr) -> pl.Expr:
    return column.str.strip_chars(_SPACE) == ""


def _headed(title: pl.Expr, said: pl.Expr) -> pl.Expr:
    return (
        pl.when((title == "") | said.str.contains(title, literal=True))
        .then(said)
        .when(_blank(said))
        .then(title)
        .otherwise(title + "\n" + said)
    )


def _conversations(table: pl.DataFrame, turns: Sequence[tuple[str, pl.Expr]]) -> pl.Series:
    """One conversation a row with these roles and contents. By reshaping: ``concat_list`` takes a hundred times longer."""
    nothing = pl.lit(None, dtype=pl.String)
    said = [
        table.select(
            pl.struct(role=pl.lit(role), content=content, reasoning=nothing, tool_calls=nothing, media=nothing)
        ).to_series()
        for role, content in turns
    ]
    in_turn = np.arange(len(turns) * table.height).reshape(len(turns), table.height).T.ravel()
    return pl.concat(said).gather(in_turn).reshape((table.height, len(turns))).arr.to_list().rename("messages")
