"""XLSX: every sheet, row by row, each row with its place (``Sheet1!7``)."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime, time
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from tuneloop.data.readers import ReadOptions, text
from tuneloop.data.readers.dialect import column_names
from tuneloop.data.readers.unpack import PIECE_BYTES, first_bytes
from tuneloop.data.readers.values import plain, typed_row
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError, need

_CHUNK_ROWS = 500
_PROBED_ROWS = 50
_FILLED_SHARE = 0.6
"""The header is the first row that fills this share of the columns that rows usually fill."""
_MOST_ROWS = 1_048_576  # of a sheet, by the specification of Excel
_MERGE_CELL = re.compile(rb'<(?:\w+:)?mergeCell\s[^<>]*?ref="([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"')
_OLE = b"\xd0\xcf\x11\xe0"
_OLD = (".xls", ".xlsb", ".ods")

Cells = tuple[Any, ...]


class _Damaged(Exception):
    """What is left of the workbook cannot be read."""


class _Merged(NamedTuple):
    """A range of merged cells, rows and columns counted from 1, both ends within."""

    top: int
    left: int
    bottom: int
    right: int


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read every sheet of a workbook as a stream.

    The header of a sheet is its first row that fills most columns; filled rows above it (titles, notes) become rows with
    that reason. Merged cells repeat their value. Formulas give the value that the program which saved the file computed.

    Raises:
        DataError: It is an old, encrypted or damaged workbook, or holds no rows.
        MissingExtraError: Without ``tuneloop[office]``.
    """
    begin = first_bytes(path, 8)
    suffix = path.suffix.lower()
    if begin.startswith(_OLE) or (suffix in _OLD and begin.startswith(b"PK")):
        what = "a password-protected or an old Excel workbook" if suffix.startswith(".xlsx") else "not an XLSX workbook"
        raise DataError(
            f"this is {what}",
            where=name,
            hint=f"convert it: soffice --headless --convert-to xlsx {path.name} (or save it as .xlsx without password)",
        )
    if not begin.startswith(b"PK"):
        return text.read(path, name, options)  # many programs write CSV or HTML and call it .xls
    facts: dict[str, Any] = {"encoding": "xlsx", "blank_lines": 0, "sheets": 0}
    try:
        book = _Book(path)
    except _Damaged as error:
        raise DataError(
            f"the workbook cannot be opened: {error}",
            where=name,
            hint="open it in a spreadsheet program and save it again",
        ) from None
    file = RawFile.start(name, _rows(book, facts), None, facts)
    if not file.head:
        raise DataError("the workbook holds no rows", where=name, hint="check the export that wrote it")
    return file


def _rows(book: _Book, facts: dict[str, Any]) -> Iterator[RawRow]:
    for sheet in book.sheets:
        last = 0
        try:
            for row in _sheet_rows(book, sheet, facts):
                last = row.line
                yield row
        except _Damaged as error:
            why = f"damaged workbook: the sheet cannot be read from here on ({error})"
            yield RawRow(last + 1, "", problem=(READ, why), place=f"{sheet}!{last + 1}")
    book.close()


def _sheet_rows(book: _Book, sheet: str, facts: dict[str, Any]) -> Iterator[RawRow]:
    """The rows of one sheet; ``line`` is the row number in it."""
    cells = enumerate(_unmerged(book.cells(sheet), book.merged(sheet)), 1)
    probed = list(islice(cells, _PROBED_ROWS))
    head = _header(probed)
    if head is None:
        return
    facts["sheets"] += 1
    width = max(len(_trimmed(row)) for _, row in probed[head:])
    title, names = probed[head]
    columns = column_names([_as_title(cell) for cell in (*names, *[None] * width)[:width]])
    for number, row in probed[:head]:
        if not _trimmed(row):
            facts["blank_lines"] += 1
        else:
            yield _extra(number, row, sheet, f"not a row: it stands above the header in row {title}")
    for number, row in chain(probed[head + 1 :], cells):
        yield from _row(number, row, columns, sheet, facts)


def _row(number: int, row: Cells, columns: Sequence[str], sheet: str, facts: dict[str, Any]) -> Iterator[RawRow]:
    filled = _trimmed(row)
    if not filled:
        facts["blank_lines"] += 1
    elif len(filled) > len(columns):
        yield _extra(number, row, sheet, f"ragged: {len(filled)} cells where the header has {len(columns)}")
    else:
        padded = [*filled, *[None] * (len(columns) - len(filled))]
        yield typed_row(number, columns, [_value(cell) for cell in padded], f"{sheet}!{number}")


def _extra(number: int, row: Cells, sheet: str, reason: str) -> RawRow:
    raw = "\t".join("" if cell is None else str(plain(_value(cell))) for cell in _trimmed(row))
    return RawRow(number, raw, problem=(READ, reason), place=f"{sheet}!{number}")


def _trimmed(row: Cells) -> Cells:
    """Without the empty cells at its end."""
    end = len(row)
    while end and (row[end - 1] is None or (isinstance(row[end - 1], str) and not row[end - 1].strip())):
        end -= 1
    return row[:end]


def _header(rows: Sequence[tuple[int, Cells]]) -> int | None:
    """Index of the header among the first rows; None when all of them are empty."""
    filled = [
        len({str(cell) for cell in _trimmed(row) if cell is not None}) for _, row in rows
    ]  # a merged title is one
    counts = sorted(count for count in filled if count)
    if not counts:
        return None
    usual = counts[len(counts) // 2]
    return next(i for i, count in enumerate(filled) if count >= max(1, _FILLED_SHARE * usual))


def _as_title(cell: Any) -> str:
    return "" if cell is None else str(plain(_value(cell)))


def _value(cell: Any) -> Any:
    """A spreadsheet knows only moments: at midnight it means the day."""
    return cell.date() if isinstance(cell, datetime) and cell.time() == time() else cell


def _unmerged(rows: Iterator[Cells], merged: Sequence[_Merged]) -> Iterator[Cells]:
    """Rows with the value of each merged range in all of its cells."""
    values: dict[_Merged, Any] = {}
    waiting = sorted(merged, reverse=True)
    for number, row in enumerate(rows, 1):
        while waiting and waiting[-1].top <= number:
            area = waiting.pop()
            values[area] = row[area.left - 1] if area.left <= len(row) else None
        if values:
            cells = list(row)
            for area, value in values.items():
                cells[area.left - 1 : area.right] = [value] * (min(area.right, len(row)) - area.left + 1)
            values = {area: value for area, value in values.items() if area.bottom > number}
            row = tuple(cells)
        yield row


class _Book:
    """openpyxl's streaming mode, with everything it raises over damaged bytes turned into ``_Damaged``."""

    def __init__(self, path: Path) -> None:
        openpyxl = need("openpyxl", "office")

        def load() -> Any:
            return openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)

        self._path = path
        self._book = _guarded(load)
        self._sheets = {sheet.title: sheet for sheet in self._book.worksheets}
        self.sheets = tuple(self._sheets)

    def cells(self, sheet: str) -> Iterator[Cells]:
        """The values of each row, from the first row of the sheet on."""

        def begin() -> Iterator[Cells]:
            self._sheets[sheet].reset_dimensions()  # some programs state too small an area
            rows: Iterator[Cells] = self._sheets[sheet].iter_rows(values_only=True)
            return rows

        rows, passed = _guarded(begin), 0
        while chunk := _guarded(lambda: list(islice(rows, _CHUNK_ROWS))):
            passed += len(chunk)
            if passed > _MOST_ROWS + _CHUNK_ROWS:
                raise _Damaged(f"it claims more than {_MOST_ROWS:,} rows")
            yield from chunk

    def merged(self, sheet: str) -> list[_Merged]:
        """The merged ranges of a sheet, which stand behind its rows and which the streaming mode passes over."""

        def collect() -> list[_Merged]:
            found, rest = list[_Merged](), b""
            part = self._sheets[sheet]._worksheet_path
            with zipfile.ZipFile(self._path) as archive, archive.open(part) as xml:
                while piece := xml.read(PIECE_BYTES):
                    found += [_area(reference) for reference in _MERGE_CELL.findall(rest + piece)]
                    rest = (rest + piece).rpartition(b"<")[2]
                    rest = b"<" + rest if len(rest) < PIECE_BYTES else b""
            return found

        areas: list[_Merged] = _guarded(collect)
        return areas

    def close(self) -> None:
        self._book.close()


def _area(reference: tuple[bytes, bytes, bytes, bytes]) -> _Merged:
    left, top, right, bottom = reference
    return _Merged(int(top), _column(left.decode()), int(bottom), _column(right.decode()))


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number


def _guarded(work: Any) -> Any:
    """openpyxl has no error of its own for damaged files: whatever its parsing raises is the file's fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and validations, which are not read
            return work()
    except MemoryError:
        raise
    except Exception as error:
        raise _Damaged(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from None
