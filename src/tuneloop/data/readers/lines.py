"""JSON Lines and plain text: each row with its line, broken ones with their reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from tuneloop.data.readers.cut import cut
from tuneloop.data.readers.stream import LONGEST, TextStream
from tuneloop.data.rows import READ, RawFile, RawRow

DECODER = json.JSONDecoder()
_PROBED_LINES = 1_000
_PROBED_OBJECTS = 20


def read_json_lines(text: TextStream, name: str) -> RawFile:
    """One JSON object a line; a line that is not one becomes a row with its reason."""
    facts = {"encoding": text.encoding, "blank_lines": 0}
    return RawFile.start(name, _json_rows(text, facts), None, facts)


def _json_rows(text: TextStream, facts: dict[str, Any]) -> Iterator[RawRow]:
    number, raw_decode, problem_of = 0, DECODER.raw_decode, text.problem
    for number, line in enumerate(text.lines(), 1):
        if not line or line.isspace():
            facts["blank_lines"] += 1
            continue
        if problem := problem_of(line):
            yield RawRow(number, text.shown(line), problem=problem)
            continue
        try:
            value, end = raw_decode(line)
            if end != len(line):
                value = json.loads(line)
        except (ValueError, RecursionError):
            yield _odd_row(line, number)
            continue
        yield object_row(value, line, number)
    yield from text.cut_off(number + 1)


def _odd_row(line: str, number: int) -> RawRow:
    """A line with space around its object, or with no object."""
    try:
        return object_row(json.loads(line), line, number)
    except (ValueError, RecursionError) as error:
        return RawRow(number, line, problem=(READ, f"not JSON: {short(error)}"))


def read_plain(text: TextStream, name: str) -> RawFile:
    """One row a line of text, under the column ``text``."""
    facts = {"encoding": text.encoding, "blank_lines": 0}
    return RawFile.start(name, _plain_rows(text, facts), ("text",), facts)


def _plain_rows(text: TextStream, facts: dict[str, Any]) -> Iterator[RawRow]:
    number = 0
    for number, line in enumerate(text.lines(), 1):
        if not line or line.isspace():
            facts["blank_lines"] += 1
        elif problem := text.problem(line):
            yield RawRow(number, text.shown(line), problem=problem)
        else:
            yield RawRow(number, line, {"text": line})
    yield from text.cut_off(number + 1)


def read_pieces(text: TextStream, name: str, how: Literal["paragraphs", "sections", "file"]) -> RawFile:
    """One row a paragraph, a section under a Markdown heading, or the whole text; columns ``text`` and ``title``."""
    facts = {"encoding": text.encoding, "cut": how}
    return RawFile.start(name, _piece_rows(text, how), ("text", "title"), facts)


def _piece_rows(text: TextStream, how: Literal["paragraphs", "sections", "file"]) -> Iterator[RawRow]:
    end = 1
    for piece in cut(text.lines(), how):
        end = piece.line + piece.text.count("\n") + 1
        if problem := text.problem(piece.text):
            yield RawRow(piece.line, text.shown(piece.text), problem=problem)
        else:
            yield RawRow(piece.line, piece.text, {"text": piece.text, "title": piece.title})
    yield from text.cut_off(end)


def looks_like_json_lines(text: TextStream) -> bool:
    """Whether there are several lines and one of the first is a whole JSON object."""
    filled = size = 0
    whole = False
    for number, line in enumerate(text.lines()):
        stripped = line.strip()
        if stripped.startswith("{") and stripped.endswith("}") and filled < _PROBED_OBJECTS and not whole:
            whole = _is_json(stripped)
        filled += bool(stripped)
        size += len(line)
        if (whole and filled > 1) or number >= _PROBED_LINES or size > LONGEST:
            break
    return whole and filled > 1


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def object_row(value: Any, raw: str, line: int) -> RawRow:
    """A row of a JSON object; a bare string is a text, any other JSON value cannot be a row."""
    if isinstance(value, dict):
        return RawRow(line, raw, value)
    if isinstance(value, str):
        return RawRow(line, raw, {"text": value})
    return RawRow(line, raw, problem=(READ, f"not an object: a JSON {type(value).__name__} stands here"))


def short(error: Exception) -> str:
    """The parser's own words without the position, which the row's line already gives."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(":")[0]
