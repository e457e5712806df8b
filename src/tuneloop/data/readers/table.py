"""CSV and TSV, with broken quoting that never swallows its neighbours.

A quoted field may hold line breaks. An opening quote that nobody closes would, to a plain CSV reader, swallow rows
until the next quote or the end of the file. Here a row continues on the next line only when the quote is closed
correctly (a delimiter or the end of the line follows) and the row then has as many fields as the header; otherwise its
first line alone is dropped with the reason, and reading goes on with the next line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any

from tuneloop.data.readers.dialect import Dialect, column_names, is_data, sniff_delimiter
from tuneloop.data.readers.stream import TextStream
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError

_SNIFF_LINES = 200
_SNIFF_CHARS = 1_000_000
_FORGET_LINES = 4_096


def read_table(text: TextStream, name: str, *, delimiter: str | None = None) -> RawFile:
    """Parse a CSV file; where its first row holds numbers there is no header, and the columns are numbered.

    Raises:
        DataError: There is no header or no row.
    """
    lines, start = _Lines(text), 0
    while lines.has(start) and not lines[start].strip():
        start += 1
    if not lines.has(start):
        raise DataError("there is no header", where=f"{name}:1", hint="check the export that wrote it")
    mark = delimiter or sniff_delimiter(lines.sample(start), name)
    dialect = Dialect(mark)
    scan = dialect.scan(lines, start, None)
    head_end = scan.end if scan.closed else start + 1
    try:
        cells = dialect.split(text.shown(lines.joined(start, head_end)))
    except csv.Error as error:
        raise DataError(
            f"the header cannot be read: {error}", where=f"{name}:{start + 1}", hint="check the first line"
        ) from None
    facts = {"encoding": text.encoding, "delimiter": mark, "blank_lines": 0}
    if is_data(cells):
        columns, head_end = column_names([""] * len(cells)), start
        facts["header"] = "none: the first row holds numbers"
    else:
        columns = column_names(cells)
    if not lines.has(head_end) and not text.damage:
        raise DataError(
            "there is a header and no row below it", where=f"{name}:{start + 1}", hint="check the export that wrote it"
        )
    rows = _Rows(text, lines, dialect, columns, facts).walk(head_end)
    return RawFile.start(name, rows, columns, facts, start + 1)


class _Lines:
    """Lines by their number (from 0), fetched when asked for and forgotten once passed."""

    def __init__(self, text: TextStream) -> None:
        self._batches = text.batches()
        self._held: list[str] = []
        self._first = 0

    def has(self, i: int) -> bool:
        while i - self._first >= len(self._held):
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._held += batch
        return True

    def __getitem__(self, i: int) -> str:
        return self._held[i - self._first]

    def joined(self, start: int, end: int) -> str:
        return "\n".join(self._held[start - self._first : end - self._first])

    def forget(self, before: int) -> None:
        if before - self._first > _FORGET_LINES:
            del self._held[: before - self._first]
            self._first = before

    def sample(self, start: int) -> list[str]:
        """Some lines to guess from."""
        found, size = list[str](), 0
        while len(found) < _SNIFF_LINES and size < _SNIFF_CHARS and self.has(start + len(found)):
            found.append(self[start + len(found)])
            size += len(found[-1])
        return found


class _Rows:
    """Walks over the rows below the header."""

    def __init__(
        self, text: TextStream, lines: _Lines, dialect: Dialect, columns: Sequence[str], facts: dict[str, Any]
    ) -> None:
        self._text, self._lines, self._dialect, self._columns, self._facts = text, lines, dialect, columns, facts
        self._tail_until, self._broken_at, self._in_ruins = -1, 0, False

    def walk(self, at: int) -> Iterator[RawRow]:
        """Rows from line ``at`` (counted from 0) on."""
        lines, mark, well_formed = self._lines, self._dialect.delimiter, self._dialect.well_formed
        while lines.has(at):
            line = lines[at]
            if not line or line.isspace():
                self._facts["blank_lines"] += 1
                at += 1
                continue
            fields = well_formed(line) if '"' in line else line.split(mark)
            if fields is not None:
                row, end = self._row(line, at, fields), at + 1
            else:
                row, end = self._odd_row(line, at)
            yield row
            self._in_ruins = self._in_ruins and row.problem is not None  # a whole row shows the broken one is over
            at = end
            lines.forget(at)
        yield from self._text.cut_off(at + 1)

    def _odd_row(self, line: str, at: int) -> tuple[RawRow, int]:
        """A row with quotes that are open at the end of its line, or not where they should be; and the line after it."""
        dialect = self._dialect
        rest = at <= self._tail_until or self._in_ruins
        if rest and line.count('"') % 2 and not dialect.opens_field(line):
            return self._broken(line, at, f"this is the rest of the row in line {self._broken_at + 1}"), at + 1
        scan = dialect.scan(self._lines, at, len(self._columns))
        if not scan.closed:
            self._tail_until, self._broken_at, self._in_ruins = max(self._tail_until, scan.stopped), at, True
            why = f"it opens here and is not closed correctly by line {scan.stopped + 1}"
            return self._broken(line, at, why), at + 1
        raw = self._lines.joined(at, scan.end)
        try:
            return self._row(raw, at, dialect.split(raw)), scan.end
        except csv.Error as error:
            problem = self._text.problem(raw) or (READ, f"not CSV: {error}")
            return RawRow(at + 1, self._text.shown(raw), problem=problem), scan.end

    def _broken(self, line: str, at: int, why: str) -> RawRow:
        return RawRow(at + 1, self._text.shown(line), problem=(READ, f"broken quote: {why}"))

    def _row(self, raw: str, at: int, fields: list[str]) -> RawRow:
        width = len(self._columns)
        problem = self._text.problem(raw)
        if problem is None and len(fields) == width:
            return RawRow(at + 1, raw, dict(zip(self._columns, fields, strict=True)))
        if problem is None and len(fields) > width:
            if not any(cell.strip() for cell in fields[width:]):  # spreadsheets pad rows with empty cells
                return RawRow(at + 1, raw, dict(zip(self._columns, fields[:width], strict=True)))
            problem = READ, f"ragged: {len(fields)} fields where the header has {width}"
        return RawRow(
            at + 1,
            self._text.shown(raw),
            problem=problem or ("truncated", f"ragged: {len(fields)} of {width} fields"),
        )
