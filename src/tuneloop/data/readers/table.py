"""CSV and TSV, with broken quoting that never swallows its neighbours.

A quoted field may hold line breaks. An opening quote that nobody closes would, to a plain CSV reader, swallow rows
until the next quote or the end of the file. Here a row continues on the next line only when the quote is closed
correctly (a delimiter or the end of the line follows) and the row then has as many fields as the header; otherwise its
first line alone is dropped with the reason, and reading goes on with the next line.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.data.readers.encoding import Text
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError

_DELIMITERS = (",", "\t", ";", "|")
_SNIFF_LINES = 200
_MAX_CONTINUATION_LINES = 2_000
"""No field of a real export has more line breaks; keeps hostile input linear."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """Where a row ends: ``end`` is the index after its last line, ``closed`` whether its quotes are balanced.

    ``stopped`` is the line in which a quote stood that proves the quoting wrong (or the last line looked at).
    """

    end: int
    closed: bool
    stopped: int


def read_table(text: Text, name: str, *, delimiter: str | None = None) -> RawFile:
    """Parse a CSV file with a header.

    Raises:
        DataError: There is no header or no row.
    """
    lines = text.lines
    start = next((i for i, line in enumerate(lines) if line.strip()), 0)
    mark = delimiter or sniff_delimiter(lines[start : start + _SNIFF_LINES], name)
    grammar = _Grammar(mark)
    scan = grammar.scan(lines, start, None)
    head_end = scan.end if scan.closed else start + 1
    try:
        columns = _column_names(grammar.split("\n".join(lines[start:head_end])))
    except csv.Error as error:
        raise DataError(
            f"the header cannot be read: {error}", where=f"{name}:{start + 1}", hint="check the first line"
        ) from None
    if head_end >= len(lines):
        raise DataError(
            "there is a header and no row below it", where=f"{name}:{start + 1}", hint="check the export that wrote it"
        )
    rows, blank = _read_rows(text, grammar, columns, head_end)
    facts = {"encoding": text.encoding, "delimiter": mark, "blank_lines": blank}
    return RawFile.start(name, rows, columns, facts, start + 1)


def sniff_delimiter(lines: Sequence[str], name: str = "") -> str:
    """The delimiter whose count is above zero and the same in most lines; a comma when none is."""
    best, best_score = ("\t" if name.lower().endswith((".tsv", ".tab")) else ","), 0.0
    for mark in sorted(_DELIMITERS, key=lambda d: d != best):
        grammar = _Grammar(mark)
        widths = [grammar.width(line) for line in lines if line.strip() and line.count('"') % 2 == 0]
        if not widths or widths[0] < 2:
            continue
        width, agreeing = Counter(widths).most_common(1)[0]
        score = agreeing / len(widths) if width > 1 else 0.0
        score += 0.5 * (widths[0] == width)  # the header is the row least likely to be broken
        if score > best_score + 1e-9:
            best, best_score = mark, score
    return best


class _Grammar:
    """One dialect: a delimiter, and double quotes that are doubled inside a quoted field."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        opening = re.escape(delimiter)
        self._opens = re.compile(rf'(?:^|{opening})[ ]*"')
        self._after_close = re.compile(rf"[ ]*(?:{opening}|$)")

    def split(self, row: str) -> list[str]:
        """The fields of one row (it may hold line breaks inside quotes)."""
        if '"' not in row:
            return row.split(self.delimiter)
        return next(csv.reader([row], delimiter=self.delimiter, skipinitialspace=True))

    def width(self, row: str) -> int:
        """How many fields a row has; 0 when it cannot be parsed."""
        try:
            return len(self.split(row))
        except csv.Error:
            return 0

    def scan(self, lines: Sequence[str], start: int, width: int | None) -> _Scan:
        """Find the end of the row that begins at ``start``; ``width`` is how many fields it must then have."""
        state = self._open_at_end(lines[start], False)
        if state is False:
            return _Scan(start + 1, True, start)
        limit = min(len(lines), start + _MAX_CONTINUATION_LINES)
        for i in range(start + 1, limit):
            if '"' not in lines[i]:
                continue
            state = self._open_at_end(lines[i], True)
            if state is None:
                return _Scan(start + 1, False, i)
            if state is False:
                fits = width is None or self.width("\n".join(lines[start : i + 1])) == width
                return _Scan(i + 1, True, i) if fits else _Scan(start + 1, False, i)
        return _Scan(start + 1, False, limit - 1)

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
            while at < len(line) and line[at] != self.delimiter:
                at += 1
            at += 1

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


def _column_names(header: Sequence[str]) -> tuple[str, ...]:
    """Names on one line; empty ones are numbered, repeated ones get a suffix."""
    names: list[str] = []
    for i, cell in enumerate(header, 1):
        name = base = " ".join(cell.strip("\ufeff").split()) or f"column_{i}"
        k = 2
        while name in names:
            name, k = f"{base}_{k}", k + 1
        names.append(name)
    return tuple(names)


def _read_rows(text: Text, grammar: _Grammar, columns: tuple[str, ...], at: int) -> tuple[list[RawRow], int]:
    lines, width = text.lines, len(columns)
    rows: list[RawRow] = []
    blank, tail_until, broken_at, in_ruins = 0, -1, 0, False
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            blank += 1
            at += 1
            continue
        if '"' not in line:
            end, problem = at + 1, None
        elif (at <= tail_until or in_ruins) and line.count('"') % 2 and not grammar.opens_field(line):
            end, problem = at + 1, (READ, f"broken quote: this is the rest of the row in line {broken_at + 1}")
        else:
            scan = grammar.scan(lines, at, width)
            end, problem = scan.end, None
            if not scan.closed:
                problem = (READ, f"broken quote: it opens here and is not closed correctly by line {scan.stopped + 1}")
                tail_until, broken_at, in_ruins = max(tail_until, scan.stopped), at, True
        raw = line if end == at + 1 else "\n".join(lines[at:end])
        rows.append(_row(text, raw, at, end, grammar, columns, problem))
        in_ruins = in_ruins and rows[-1].problem is not None  # a whole row shows that the broken one is over
        at = end
    return rows, blank


def _row(
    text: Text,
    raw: str,
    at: int,
    end: int,
    grammar: _Grammar,
    columns: tuple[str, ...],
    problem: tuple[str, str] | None,
) -> RawRow:
    problem = problem or damage(text, raw, at, end)
    if problem:
        return RawRow(at + 1, raw, problem=problem)
    try:
        fields = grammar.split(raw)
    except csv.Error as error:
        return RawRow(at + 1, raw, problem=(READ, f"not CSV: {error}"))
    width = len(columns)
    if len(fields) > width and not any(cell.strip() for cell in fields[width:]):
        fields = fields[:width]  # spreadsheets pad rows with empty cells
    if len(fields) > width:
        return RawRow(at + 1, raw, problem=(READ, f"ragged: {len(fields)} fields where the header has {width}"))
    if len(fields) < width:
        return RawRow(at + 1, raw, problem=("truncated", f"ragged: {len(fields)} of {width} fields"))
    return RawRow(at + 1, raw, dict(zip(columns, fields, strict=True)))


def damage(text: Text, raw: str, at: int, end: int) -> tuple[str, str] | None:
    """Why a row whose text is damaged cannot be used: unknown bytes or a zero byte."""
    if "\x00" in raw:
        return READ, "zero byte: the row holds byte 0x00"
    if text.bad_lines and any(i in text.bad_lines for i in range(at, end)):
        return READ, f"wrong encoding: bytes that are not {text.encoding}"
    return None
