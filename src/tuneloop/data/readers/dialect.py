"""What a CSV file means by its delimiters and double quotes, row by row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tuneloop.data.readers.stream import LONGEST

_TABULAR = 0.8
_NUMBER = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?")
_DELIMITERS = (",", "\t", ";", "|")
_MAX_CONTINUATION_LINES = 2_000
"""No field of a real export has more line breaks; keeps hostile input linear."""


class Lines(Protocol):
    """Lines by number, of which not all need be in memory."""

    def has(self, i: int) -> bool: ...
    def joined(self, start: int, end: int) -> str: ...
    def __getitem__(self, i: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Scan:
    """Where a row ends: ``end`` is the index after its last line, ``closed`` whether its quotes are balanced.

    ``stopped`` is the line in which a quote stood that proves the quoting wrong (or the last line looked at).
    """

    end: int
    closed: bool
    stopped: int


def sniff_delimiter(lines: Sequence[str], name: str = "") -> str:
    """The delimiter whose count is above zero and the same in most lines; a comma when none is."""
    best, best_score = ("\t" if name.lower().endswith((".tsv", ".tab")) else ","), 0.0
    for mark in sorted(_DELIMITERS, key=lambda d: d != best):
        dialect = Dialect(mark)
        widths = [dialect.width(line) for line in lines if line.strip() and line.count('"') % 2 == 0]
        if not widths or widths[0] < 2:
            continue
        width, agreeing = Counter(widths).most_common(1)[0]
        score = agreeing / len(widths) if width > 1 else 0.0
        score += 0.5 * (widths[0] == width)  # the header is the row least likely to be broken
        if score > best_score + 1e-9:
            best, best_score = mark, score
    return best


def is_tabular(lines: Sequence[str]) -> bool:
    """Whether most of some lines have as many fields as the first one, and more than one."""
    dialect = Dialect(sniff_delimiter(lines))
    widths = [dialect.width(line) for line in lines if line.strip() and line.count('"') % 2 == 0]
    return bool(widths) and widths[0] > 1 and widths.count(widths[0]) >= _TABULAR * len(widths)


def is_data(cells: Sequence[str]) -> bool:
    """Whether the first row of a file is no header: it begins with a number, and at least half of it are numbers."""
    numbers = [bool(_NUMBER.fullmatch(cell.strip())) for cell in cells]
    return len(cells) > 1 and numbers[0] and 2 * sum(numbers) >= len(cells)


class Dialect:
    """A delimiter, and double quotes that are doubled inside a quoted field."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        mark = re.escape(delimiter)
        quoted, plain = r'"([^"]*(?:""[^"]*)*)"', rf'([^"{mark}]*)'
        field = rf"(?:{quoted}|{plain})"
        self._well_formed = re.compile(rf"{field}(?:{mark}{field})*")
        self._field = re.compile(rf"(?:^|{mark}){field}")
        self._opens = re.compile(rf'(?:^|{mark})[ ]*"')
        self._after_close = re.compile(rf"[ ]*(?:{mark}|$)")

    def well_formed(self, row: str) -> list[str] | None:
        """The fields of a row whose quotes all stand where they should; None for any other (``split`` takes longer)."""
        if not self._well_formed.fullmatch(row):
            return None
        fields = self._field.findall(row)
        return [quoted.replace('""', '"') if quoted else plain.lstrip(" ") for quoted, plain in fields]

    def split(self, row: str) -> list[str]:
        """The fields of one row (it may hold line breaks inside quotes), as a spreadsheet would read it.

        Raises:
            csv.Error: It cannot be read at all.
        """
        if '"' not in row:
            return row.split(self.delimiter)
        if fields := self.well_formed(row):
            return fields
        return next(csv.reader([row], delimiter=self.delimiter, skipinitialspace=True))

    def width(self, row: str) -> int:
        """How many fields a row has; 0 when it cannot be parsed."""
        try:
            return len(self.split(row))
        except csv.Error:
            return 0

    def scan(self, lines: Lines, start: int, width: int | None) -> Scan:
        """Find the end of the row that begins at ``start``; ``width`` is how many fields it must then have."""
        state = self._open_at_end(lines[start], False)
        if state is False:
            return Scan(start + 1, True, start)
        i, size = start, len(lines[start])
        while i + 1 < start + _MAX_CONTINUATION_LINES and size <= LONGEST and lines.has(i + 1):
            i += 1
            size += len(lines[i])
            if '"' not in lines[i]:
                continue
            state = self._open_at_end(lines[i], True)
            if state is None:
                return Scan(start + 1, False, i)
            if state is False:
                fits = width is None or self.width(lines.joined(start, i + 1)) == width
                return Scan(i + 1, True, i) if fits else Scan(start + 1, False, i)
        return Scan(start + 1, False, i)

    def _open_at_end(self, line: str, open_: bool) -> bool | None:
        """Whether a quoted field is open after this line; None when a closing quote stands where none can.

        The strictness holds for lines that continue a row: within one line, ``"a" b`` is read as a spreadsheet
        would.
        """
        strict, at = open_, 0
        while True:
            if not open_:
                found = self._opens.search(line, max(at - 1, 0))
                if not found:
                    return False
                at, open_ = found.end(), True
            close = self._closing_quote(line, at)
            if close < 0:
                return True
            at, open_ = close + 1, False
            if strict and not self._after_close.match(line, at):
                return None
            strict = False
            following = line.find(self.delimiter, at)
            at = (len(line) if following < 0 else following) + 1

    @staticmethod
    def _closing_quote(line: str, at: int) -> int:
        """Index of the next quote that is not doubled, or -1."""
        while (at := line.find('"', at)) >= 0:
            if line[at + 1 : at + 2] != '"':
                return at
            at += 2
        return -1

    def opens_field(self, line: str) -> bool:
        return bool(self._opens.search(line))


def column_names(header: Sequence[str]) -> tuple[str, ...]:
    """Names on one line; empty ones are numbered, repeated ones get a suffix."""
    names: dict[str, None] = {}
    for i, cell in enumerate(header, 1):
        name = base = " ".join(cell.strip("\ufeff").split()) or f"column_{i}"
        k = 2
        while name in names:
            name, k = f"{base}_{k}", k + 1
        names[name] = None
    return tuple(names)
