"""Replacements in a text, and where its characters stand afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Edit(NamedTuple):
    """Characters [start, end) become ``new``. The edits of a text are ordered and do not overlap."""

    start: int
    end: int
    new: str


def apply(text: str, edits: Sequence[Edit]) -> str:
    out, at = [], 0
    for edit in edits:
        out += [text[at : edit.start], edit.new]
        at = edit.end
    return "".join([*out, text[at:]])


def moved(position: int, edits: Sequence[Edit]) -> int:
    """Where the character at ``position``, which no edit touches, stands after the edits."""
    return position + sum(len(e.new) - (e.end - e.start) for e in edits if e.end <= position)


def whole(word: str) -> str:
    """A regular expression for a word; a Latin one is not found inside a longer word."""
    before = "(?<![A-Za-z0-9])" if word[0].isascii() and word[0].isalnum() else ""
    after = "(?![A-Za-z0-9])" if word[-1].isascii() and word[-1].isalnum() else ""
    return f"{before}{re.escape(word)}{after}"
