"""JSON Lines, JSON arrays and plain text: each row with its line, broken ones with their reason."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import Any

from tuneloop.data.readers.encoding import Text
from tuneloop.data.readers.table import damage
from tuneloop.data.rows import READ, RawFile, RawRow

_DECODER = json.JSONDecoder()
_NOT_SPACE = re.compile(r"[^ \t\r\n]")
_LISTS = ("data", "rows", "examples", "records", "items")
"""Keys under which exports wrap their rows: ``{"data": [...]}``."""


def read_json_lines(text: Text, name: str) -> RawFile:
    """One JSON object a line; a line that is not one becomes a row with its reason."""
    rows, blank = [], 0
    for i, line in enumerate(text.lines):
        if not line.strip():
            blank += 1
            continue
        if problem := damage(text, line, i, i + 1):
            rows.append(RawRow(i + 1, line, problem=problem))
            continue
        try:
            rows.append(_object_row(json.loads(line), line, i + 1))
        except (ValueError, RecursionError) as error:
            rows.append(RawRow(i + 1, line, problem=(READ, f"not JSON: {_short(error)}")))
    return RawFile.start(name, rows, None, {"encoding": text.encoding, "blank_lines": blank})


def read_plain(text: Text, name: str) -> RawFile:
    """One row a line of text, under the column ``text``."""
    rows, blank = [], 0
    for i, line in enumerate(text.lines):
        if not line.strip():
            blank += 1
        else:
            problem = damage(text, line, i, i + 1)
            rows.append(RawRow(i + 1, line, {} if problem else {"text": line}, problem))
    return RawFile.start(name, rows, ("text",), {"encoding": text.encoding, "blank_lines": blank})


def looks_like_json_lines(text: Text) -> bool:
    """Whether there are several lines and one of the first is a whole JSON object."""
    if sum(bool(line.strip()) for line in text.lines[:1000]) < 2:
        return False
    seen = 0
    for line in text.lines:
        stripped = line.strip()
        if stripped.startswith("{") and stripped.endswith("}"):
            try:
                json.loads(stripped)
            except (ValueError, RecursionError):
                pass
            else:
                return True
        seen += bool(stripped)
        if seen >= 20:
            break
    return False


def read_json(text: Text, name: str) -> RawFile:
    """A JSON array, or an object that holds one or maps names to objects.

    An element that is not valid JSON becomes a row with its reason, up to where the next element can be read.
    """
    whole = "\n".join(text.lines)
    starts = [0]
    for line in text.lines:
        starts.append(starts[-1] + len(line) + 1)
    reader = _ArrayReader(text, whole, starts)
    begin = _skip_space(whole, 0)
    if whole.startswith("[", begin):
        rows = reader.elements(begin + 1)
    else:
        rows = reader.wrapped(begin)
    return RawFile.start(name, rows, None, {"encoding": text.encoding, "blank_lines": 0})


class _ArrayReader:
    """Walks over the elements of one JSON text."""

    def __init__(self, text: Text, whole: str, starts: list[int]) -> None:
        self._text, self._whole, self._starts = text, whole, starts
        self._per_line: dict[int, int] = {}
        self._keys: set[str] = set()

    def _make(self, begin: int, end: int, value: Any = None, reason: str | None = None) -> RawRow:
        first = bisect_right(self._starts, begin) - 1
        last = bisect_right(self._starts, max(begin, end - 1)) - 1
        raw = self._whole[begin:end]
        nth = self._per_line[first] = self._per_line.get(first, 0) + 1
        problem = (READ, reason) if reason else damage(self._text, raw, first, last + 1)
        row = RawRow(first + 1, raw, problem=problem) if problem else _object_row(value, raw, first + 1)
        row.nth = nth
        return row

    def elements(self, at: int, *, inside_object: bool = False) -> list[RawRow]:
        """All elements after the opening bracket."""
        rows: list[RawRow] = []
        whole, size = self._whole, len(self._whole)
        while True:
            at = _skip_space(whole, at)
            if at >= size:
                return rows
            if whole[at] == "]":
                return rows if inside_object else rows + self._trailing(at + 1)
            if whole[at] == ",":
                at += 1
                continue
            try:
                value, end = _DECODER.raw_decode(whole, at)
            except (ValueError, RecursionError) as error:
                end = self._next_start(at)
                rows.append(self._make(at, end, reason=f"not JSON: {_short(error)}"))
            else:
                rows.append(self._make(at, end, value))
                if isinstance(value, dict):
                    self._keys.update(value)
            at = end

    def _trailing(self, at: int) -> list[RawRow]:
        rest = self._whole[at:]
        if not rest.strip():
            return []
        begin = at + len(rest) - len(rest.lstrip())
        return [self._make(begin, at + len(rest.rstrip()), reason="not JSON: text after the end of the array")]

    def _next_start(self, at: int) -> int:
        """Where the next element begins that can be read and resembles the earlier ones; else the end."""
        whole = self._whole
        line_start = whole.rfind("\n", 0, at) + 1
        indent = whole[line_start:at]
        pattern = rf"\n{re.escape(indent)}(?=\{{)" if "\n" in whole[at:] and not indent.strip() else r",\s*(?=\{)"
        for found in re.compile(pattern).finditer(whole, at):
            try:
                value, _ = _DECODER.raw_decode(whole, found.end())
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and (not self._keys or self._keys & set(value)):
                return found.end()
        return len(whole.rstrip())

    def wrapped(self, at: int) -> list[RawRow]:
        """Rows inside an object: ``{"data": [...]}``, or ``{"id": {...}, ...}``."""
        try:
            value = json.loads(self._whole)
        except (ValueError, RecursionError) as error:
            return [self._make(at, len(self._whole.rstrip()), reason=f"not JSON: {_short(error)}")]
        if isinstance(value, dict):
            for key in _LISTS:
                if isinstance(value.get(key), list):
                    bracket = re.compile(rf'"{key}"\s*:\s*\[').search(self._whole)
                    if bracket:
                        return self.elements(bracket.end(), inside_object=True)
            if value and all(isinstance(v, dict) for v in value.values()):
                return [self._member(key, inner) for key, inner in value.items()]
        return [self._make(at, len(self._whole.rstrip()), value)]

    def _member(self, key: str, value: dict[str, Any]) -> RawRow:
        at = self._whole.find(json.dumps(key, ensure_ascii=False) + ":")
        row = self._make(max(at, 0), max(at, 0) + 1, value)
        row.raw = json.dumps(value, ensure_ascii=False)
        return row


def _skip_space(whole: str, at: int) -> int:
    found = _NOT_SPACE.search(whole, at)
    return found.start() if found else len(whole)


def _object_row(value: Any, raw: str, line: int) -> RawRow:
    if isinstance(value, dict):
        return RawRow(line, raw, value)
    return RawRow(line, raw, problem=(READ, f"not an object: a JSON {type(value).__name__} stands here"))


def _short(error: Exception) -> str:
    """The parser's own words without the position, which the row's line already gives."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(":")[0]
