"""A JSON array read element by element, whatever its size; an object that holds one or maps names to objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tuneloop.data.readers.lines import DECODER, object_row, short
from tuneloop.data.readers.stream import LONGEST, TextStream
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError

_LISTS = ("data", "rows", "examples", "records", "items")
"""Keys under which exports wrap their rows: ``{"data": [...]}``."""
_PLAIN_MEMBER = r'\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[-+.\w]+)\s*,'
_OPENS_LIST = re.compile(rf'\s*\{{(?:{_PLAIN_MEMBER})*\s*"(?:{"|".join(_LISTS)})"\s*:\s*\[')
_OBJECT_CHARS = 4 * LONGEST
"""So much of one JSON object is held in memory (64 Mi characters, parsed about 0.7 GB)."""
_SPACE = " \t\n\r"  # of JSON (RFC 8259); str.strip() without it would also take characters that are no space here
_NOT_SPACE = re.compile(r"[^ \t\n\r]")
_NOT_BETWEEN = re.compile(r"[^ \t\n\r,]")
_UNSURE_CHARS = 16
"""So near to the end of what has been read an error or a number may come from the cut (``tru``, ``\\u00``, ``1.5e``)."""
_KNOWN_KEYS = 10_000


def read_json(text: TextStream, name: str) -> RawFile:
    """A JSON array, or an object that holds one or maps names to objects.

    An element that is not valid JSON becomes a row with its reason, up to where the next element can be read. Arrays,
    and lists under a usual key near the beginning of an object, stream.

    Raises:
        DataError: An object with its rows elsewhere is larger than 64 Mi characters.
    """
    facts = {"encoding": text.encoding, "blank_lines": 0}
    window = _Window(text.pieces())
    window.more()
    if (at := window.find(_NOT_SPACE)) is not None and window.text[at] == "[":
        window.pass_to(at + 1)
        rows = _Elements(text, window).rows()
    elif found := _OPENS_LIST.match(window.text):
        window.pass_to(found.end())
        rows = _Elements(text, window, inside_object=True).rows()
    else:
        rows = _wrapped(text, _whole(window, name))
    return RawFile.start(name, rows, None, facts)


class _Window:
    """The part of a text that is being looked at: from a little before ``at``, where reading stands, as far as needed.

    ``line`` counts from 1 and is the line of ``at``.
    """

    def __init__(self, pieces: Iterable[str], line: int = 1) -> None:
        self._pieces = iter(pieces)
        self.text, self.at, self.line, self.ended = "", 0, line, False

    def more(self) -> bool:
        """Forget what is passed and read on, at least as much again as is held; False at the end of the text."""
        keep = max(self.text.rfind("\n", 0, self.at) + 1, self.at - 200)  # the indentation of the current line
        self.text, self.at = self.text[keep:], self.at - keep
        held, wanted, size = [self.text], len(self.text) - self.at, 0
        for piece in self._pieces:
            held.append(piece)
            size += len(piece)
            if size >= wanted:
                break
        else:
            self.ended = True
        self.text = "".join(held)
        return size > 0

    def find(self, pattern: re.Pattern[str]) -> int | None:
        """Where the pattern is next found, reading on as needed; None at the end. Moves there."""
        while True:
            if found := pattern.search(self.text, self.at):
                self.pass_to(found.start())
                return self.at
            self.pass_to(len(self.text))
            if not self.more():
                return None

    def pass_to(self, at: int) -> None:
        self.line += self.text.count("\n", self.at, at)
        self.at = at

    @property
    def left(self) -> int:
        return len(self.text) - self.at

    def may_be_cut(self, error: Exception) -> bool:
        """Whether an error may be due to the end of the window and not to the text."""
        if self.ended or not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _UNSURE_CHARS


class _Elements:
    """Walks over the elements of one array, after its opening bracket."""

    def __init__(self, text: TextStream, window: _Window, *, inside_object: bool = False) -> None:
        self._text, self._window, self._inside_object = text, window, inside_object
        self._keys: set[str] = set()
        self._line, self._nth = 0, 0
        self._told_damage = False

    def rows(self) -> Iterator[RawRow]:
        window = self._window
        while window.find(_NOT_BETWEEN) is not None:
            if window.text[window.at] == "]":
                if not self._inside_object:
                    window.pass_to(window.at + 1)
                    yield from self._trailing()
                break
            yield self._element()
        if self._text.damage and not self._told_damage:
            yield from self._text.cut_off(window.line)

    def _make(self, raw: str, value: Any = None, reason: str | None = None) -> RawRow:
        line = self._window.line
        self._nth = self._nth + 1 if line == self._line else 1
        self._line = line
        problem = (READ, reason) if reason else self._text.problem(raw)
        row = RawRow(line, self._text.shown(raw), problem=problem) if problem else object_row(value, raw, line)
        row.nth = self._nth
        return row

    def _element(self) -> RawRow:
        window = self._window
        while True:
            try:
                value, end = DECODER.raw_decode(window.text, window.at)
            except (ValueError, RecursionError) as error:
                if not window.may_be_cut(error):
                    return self._broken(f"not JSON: {short(error)}")
            else:
                sure = isinstance(value, dict | list | str) or end < len(window.text) - _UNSURE_CHARS
                if sure or window.ended:
                    return self._whole(value, end)
            if window.left > LONGEST:
                return self._broken(f"too long: more than {LONGEST:,} characters without an end")
            window.more()

    def _whole(self, value: Any, end: int) -> RawRow:
        window = self._window
        row = self._make(window.text[window.at : end], value)
        if isinstance(value, dict) and len(self._keys) < _KNOWN_KEYS:
            self._keys.update(value)
        window.pass_to(end)
        return row

    def _broken(self, reason: str) -> RawRow:
        window = self._window
        end = self._next_start()
        if self._text.damage and window.ended and end >= len(window.text.rstrip(_SPACE)):
            reason, self._told_damage = self._text.damage, True
        row = self._make(window.text[window.at : end], reason=reason)
        window.pass_to(end)
        return row

    def _next_start(self) -> int:
        """Where the next element begins that can be read and resembles the earlier ones; else the end."""
        window = self._window
        indent = window.text[window.text.rfind("\n", 0, window.at) + 1 : window.at]
        if window.left < LONGEST // 64:
            window.more()
        lines = "\n" in window.text[window.at :] and not indent.strip()
        begins = re.compile(rf"\n{re.escape(indent)}(?=\{{)" if lines else r",\s*(?=\{)")
        looked = 0
        while True:
            start, looked = self._resembling(begins, window.at + looked)
            if start:
                return start
            looked -= window.at
            if window.left > LONGEST or not window.more():
                return len(window.text.rstrip(_SPACE)) if window.ended else len(window.text)

    def _resembling(self, begins: re.Pattern[str], at: int) -> tuple[int, int]:
        """Start of the next element in the window, or 0 and where to look again when more has been read."""
        window = self._window
        for found in begins.finditer(window.text, at):
            try:
                value, _ = DECODER.raw_decode(window.text, found.end())
            except (ValueError, RecursionError) as error:
                if window.may_be_cut(error):
                    return 0, found.start()
                continue
            if isinstance(value, dict) and (not self._keys or self._keys & set(value)):
                return found.end(), 0
        return 0, max(at, len(window.text) - 256)

    def _trailing(self) -> Iterator[RawRow]:
        window = self._window
        if window.find(_NOT_SPACE) is not None:
            while window.left <= LONGEST and window.more():
                pass
            raw = window.text[window.at :].rstrip(_SPACE)
            yield self._make(raw, reason="not JSON: text after the end of the array")
            while not window.ended:  # an archive says at its end whether it is whole
                window.pass_to(len(window.text))
                window.more()


def _whole(window: _Window, name: str) -> str:
    while window.more():
        if len(window.text) > _OBJECT_CHARS:
            raise DataError(
                f"one JSON object of more than {_OBJECT_CHARS:,} characters",
                where=f"{name}:1",
                hint=f"write its rows one a line: jq -c '.data[]' {name} > rows.jsonl",
            )
    return window.text


def _wrapped(text: TextStream, whole: str) -> Iterator[RawRow]:
    """Rows inside an object: ``{"data": [...]}``, or ``{"id": {...}, ...}``."""
    begin = len(whole) - len(whole.lstrip(_SPACE))
    first = 1 + whole.count("\n", 0, begin)
    if text.damage:
        yield RawRow(first, text.shown(whole.strip(_SPACE)), problem=(READ, text.damage))
        return
    window = _Window([], first)
    window.text, window.at, window.ended = whole, begin, True
    elements = _Elements(text, window)
    try:
        value = json.loads(whole)
    except (ValueError, RecursionError) as error:
        yield elements._make(whole.strip(_SPACE), reason=f"not JSON: {short(error)}")
        return
    if isinstance(value, dict):
        for key in _LISTS:
            if isinstance(value.get(key), list) and (bracket := re.search(rf'"{key}"\s*:\s*\[', whole)):
                window.pass_to(bracket.end())
                yield from _Elements(text, window, inside_object=True).rows()
                return
        if value and all(isinstance(member, dict) for member in value.values()):
            yield from _members(text, whole, value)
            return
    yield elements._make(whole.strip(_SPACE), value)


def _members(text: TextStream, whole: str, members: dict[str, dict[str, Any]]) -> Iterator[RawRow]:
    """One row for each named object, with the line of its name."""
    window = _Window([])
    window.text, window.ended = whole, True
    elements = _Elements(text, window)
    for key, member in members.items():
        at = whole.find(json.dumps(key, ensure_ascii=False) + ":", window.at)
        window.pass_to(max(at, window.at))
        yield elements._make(json.dumps(member, ensure_ascii=False), member)
