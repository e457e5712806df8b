"""Long text -> the pieces that become rows: lines, paragraphs, sections under a heading, or all of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
"""An ATX heading (CommonMark 0.31, section 4.2)."""
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class Piece(NamedTuple):
    """A piece of a text: the line where it begins, counted from 1, its heading (empty: none), and its text."""

    line: int
    title: str
    text: str


def cut(lines: Iterable[str], how: Literal["lines", "paragraphs", "sections", "file"]) -> Iterator[Piece]:
    """Cut a text, one piece in memory at a time; nothing but blank lines around pieces is lost.

    Args:
        lines: Physical lines without their ends.
        how: ``sections`` begin at Markdown headings (``# ...``), code fences aside. A heading with nothing below it goes
            with the next section, so that no row is a bare heading.
    """
    held: list[str] = []
    start, title, fence = 1, "", ""
    for n, line in enumerate(lines, 1):
        fence = _fence_after(fence, line) if how == "sections" else ""
        heading = _HEADING.match(line) if how == "sections" and not fence else None
        if heading:
            if any(text.strip() and not _HEADING.match(text) for text in held):
                yield from _piece(held, start, title)
                held, start = [], n
            title = (heading[2] or "").strip()
        elif how == "lines" or (how == "paragraphs" and not line.strip()):
            yield from _piece(held, start, title)
            held, start = [], n
        held.append(line)
    yield from _piece(held, start, title)


def _fence_after(fence: str, line: str) -> str:
    """The code fence that is open after this line (CommonMark 0.31, section 4.5), or an empty string."""
    found = _FENCE.match(line)
    if not found:
        return fence
    if not fence:
        return found[1]
    closes = found[1].startswith(fence) and not line[found.end() :].strip()
    return "" if closes else fence


def _piece(held: list[str], start: int, title: str) -> Iterator[Piece]:
    blank = next((i for i, line in enumerate(held) if line.strip()), None)
    if blank is not None:
        yield Piece(start + blank, title, "\n".join(held[blank:]).rstrip())
