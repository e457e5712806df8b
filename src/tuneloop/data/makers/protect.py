"""What a change of wording must not touch: code, addresses, numbers, tags, and the values of entities."""

from __future__ import annotations

import re
from collections.abc import Iterable

_STOPS = r"\s<>\"'，。；：！？、（）【】《》一-鿿"
_NUMERALS = "[零〇一二三四五六七八九十百千万亿两]+"
_NUMERAL = re.compile(_NUMERALS)
_KEPT = re.compile(
    rf"""
    ```.*?(?:```|\Z)                                  # fenced code
    | `[^`\n]+`                                       # inline code
    | ^(?:[ ]{{4}}|\t)[^\n]*                            # indented code (CommonMark 4.4)
    | (?:[a-zA-Z][a-zA-Z0-9+.-]*://|www\.)[^{_STOPS}]+   # addresses
    | [\w.%+-]+@[\w-]+\.[\w.-]+
    | \[[A-Z][A-Z0-9_]*\]                             # [EMAIL], [PHONE] ... of redact
    | \{{[^{{}}\n]*\}} | <[^<>\n]+> | \$[^$\n]+\$         # placeholders, markup, formulas
    | [A-Za-z_./\\:%-]*[0-9][A-Za-z0-9_./\\:%,-]*      # numbers, and words with one in them
    | {_NUMERALS}
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def protected(text: str, values: Iterable[str] = ()) -> bytearray:
    """One flag a character: 1 where it must stay as it is.

    Args:
        values: Entity values; each of their occurrences is protected.
    """
    flags = bytearray(len(text))
    spans = [m.span() for m in _KEPT.finditer(text)]
    for value in filter(None, values):
        spans += [m.span() for m in re.finditer(re.escape(value), text)]
    for start, end in spans:
        flags[start:end] = b"\x01" * (end - start)
    return flags


def fixed_pieces(text: str) -> list[str]:
    """What a translation must repeat character by character: everything protected but Chinese numerals."""
    return [m[0].strip(".,:%-/") for m in _KEPT.finditer(text) if not _NUMERAL.fullmatch(m[0])]
