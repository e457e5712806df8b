"""The nouns between reading and understanding: one raw row with its place in the source, and a source being read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

HEAD_ROWS = 1_000
"""From so many rows the format is detected."""


@dataclass(slots=True)
class RawRow:
    """A row as it stood in the source.

    ``line`` is the first physical line (or the row, where there are no lines), counted from 1; ``place`` says it better
    where lines say nothing (``p3``, ``Sheet1!7``, ``0:30-1:00``) and then stands in the origin; ``nth`` tells rows apart
    that begin at the same place; ``problem`` is (step, reason) for a row that could not be read: then ``fields`` is empty.
    """

    line: int
    raw: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None
    nth: int = 0
    place: str = ""

    def origin(self, name: str) -> str:
        """``name:line``, ``name:place``, and ``#n`` for the n-th row of the same place."""
        return f"{name}:{self.place or self.line}" + (f"#{self.nth}" if self.nth > 1 else "")


@dataclass(slots=True)
class RawFile:
    """A source being read: its first rows for detection, then all rows, once.

    ``columns`` are those of the head; ``facts`` (encoding, delimiter, blank lines) are complete when the rows are read.
    """

    name: str
    rows: Iterator[RawRow]
    columns: tuple[str, ...]
    facts: dict[str, Any]
    header_line: int = 1
    head: Sequence[RawRow] = ()

    @classmethod
    def start(
        cls,
        name: str,
        rows: Iterable[RawRow],
        columns: tuple[str, ...] | None = None,
        facts: dict[str, Any] | None = None,
        header_line: int = 1,
    ) -> RawFile:
        """Begin to read: takes the head off and puts it back in front.

        Args:
            columns: Their names; None: every key of the head's rows, in order of first appearance.
        """
        rest = iter(rows)
        head = list(islice(rest, HEAD_ROWS))
        if columns is None:
            columns = tuple(dict.fromkeys(key for row in head for key in row.fields))
        return cls(name, chain(head, rest), columns, {} if facts is None else facts, header_line, head)


READ = "read"
"""The step name under which unreadable rows stand in the ledger."""
