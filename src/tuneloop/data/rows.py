"""The noun between reading and understanding: one raw row with its place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class RawRow:
    """A row as it stood in the file.

    ``line`` is the first physical line, counted from 1; ``nth`` tells rows apart that begin on the same line;
    ``problem`` is (step, reason) for a row that could not be read: then ``fields`` is empty.
    """

    line: int
    raw: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None
    nth: int = 0


@dataclass(frozen=True, slots=True)
class RawFile:
    """All rows of one file, its columns in order, and facts for the report (encoding, delimiter, blank lines)."""

    name: str
    rows: list[RawRow]
    columns: tuple[str, ...]
    facts: Mapping[str, Any]
    header_line: int = 1


READ = "read"
"""The step name under which unreadable rows stand in the ledger."""
