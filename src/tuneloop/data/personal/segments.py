"""Text -> segments: stretches that may hold personal data, with borders that no personal datum crosses.

A segment is a word, or a run of words joined by one or two spaces where the word before the space has a digit
(``07700 900 123``, ``GB29 NWBK 6016``). Its end is known one to three characters later, whatever follows: that is what lets
a stream be masked as it comes. Characters are folded one for one, so that offsets stay true.
"""

from __future__ import annotations

import re
import unicodedata

PLATE_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使"
PLATE_ENDS = "学警港澳挂领试超"


def _folding() -> dict[int, str]:
    scripts = [*range(128, 0x10000), *range(0x1D7CE, 0x1D800)]
    table = {code: str(unicodedata.digit(chr(code))) for code in scripts if chr(code).isdecimal()}
    table |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    table |= {ord(c): "-" for c in "‐‑‒–—―−﹘﹣"}
    table |= {ord(c): " " for c in "\u00a0\u2002\u2003\u2004\u2005\u2007\u2008\u2009\u202f\u3000"}
    table |= {ord(c): "·" for c in "•・‧∙・"}
    table[ord("￥")] = "¥"
    return table


_FOLDING = _folding()


def fold(text: str) -> str:
    """Full-width forms, digits of other scripts, wide spaces and dashes as ASCII: the same number of characters."""
    return text if text.isascii() else text.translate(_FOLDING)


_LETTERS = rf"!#$%&'()*+\-./:=?@A-Z_a-z~·À-ɏ{PLATE_PROVINCES}{PLATE_ENDS}"
_SOLID = rf"[{_LETTERS}0-9]"
_NUMBER = rf"[{_LETTERS}]*[0-9]{_SOLID}*"
_SPACE = r"[ ]{1,2}"

_PLATE_HEAD = rf"[{_LETTERS}]*(?<=[{PLATE_PROVINCES}][A-Za-z])[ ]"

_WITH_DIGIT = re.compile(
    rf"(?:{_PLATE_HEAD}(?=[0-9A-Za-z]))?"
    rf"{_NUMBER}(?:{_SPACE}(?:[{_LETTERS}]+{_SPACE}(?=[0-9]))?{_NUMBER})*(?:{_SPACE}[{_LETTERS}]+)?"
)
"""A segment with a digit; only such a one may go on after a space."""
_WITHOUT = re.compile(rf"{_PLATE_HEAD}(?=[A-Za-z])[{_LETTERS}]+|{_SOLID}+")
"""No possessive quantifiers: Python 3.11 before 3.11.5 loses spans, or never ends, with them. None is needed: what follows each
of these repetitions cannot be part of it."""

_PLATE = re.compile(rf"[{PLATE_PROVINCES}][A-Za-z]")
_DIGIT = re.compile("[0-9]")
_BEGIN = re.compile(_SOLID)
_ENDED = re.compile(rf"[^ {_LETTERS}0-9]|[ ]{{1,2}}[^ ]|[ ]{{3}}")


def following(text: str, at: int, longest: int) -> re.Match[str] | None:
    """The first segment from a position on; of one longer than ``longest`` characters its beginning, a little longer."""
    begin = _BEGIN.search(text, at)
    # Four characters more: what decides about an end is never further behind it.
    if begin is None:
        return None
    window = (begin.start(), begin.start() + longest + 4)
    return _WITH_DIGIT.match(text, *window) or _WITHOUT.match(text, *window)


def ended(match: re.Match[str]) -> bool:
    """Whether a segment found at the end of what is known so far stays as it is, whatever follows."""
    if match.re is _WITH_DIGIT or _PLATE.match(match.string, match.end() - 2):
        return _ENDED.match(match.string, match.end()) is not None
    return match.end() < len(match.string)


_HARD = ("\n", "\t", ",", ";", '"', "。")
"""The commonest characters that stand in no segment, folded."""


def border_before(text: str, low: int, high: int) -> int:
    """A position in [low, high] where a segment surely ends, given that one ends at ``low``; the later the better.

    That is behind a hard character; and behind a space where nothing before it has a digit, nor is the head of a plate.
    """
    border = max(low, *[text.rfind(c, low, high) + 1 for c in _HARD])
    space = text.rfind(" ", border, high) + 1
    plain = space > border and not _DIGIT.search(text, border, space)
    return space if plain and not _PLATE.match(text, max(0, space - 3)) else border
