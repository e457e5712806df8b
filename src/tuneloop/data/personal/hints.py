"""A quick look: where none of these patterns matches there is nothing to find.

Most texts hold no personal data, so this decides how fast a data set is read. The patterns know no look-around, so that one
spelling serves Python's ``re`` and polars; they are kept apart for Python, which tries alternatives one after the other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from tuneloop.data.personal.context import CONTEXT
from tuneloop.data.personal.segments import PLATE_PROVINCES

_KEY = "PRIVATE KEY"
_SECRETS = (
    "sk-", "sk_", "rk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "AKIA", "ASIA", "AIza", "LTAI",
    "AKID", "xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-", "hf_", "npm_", "SG.", "eyJ", "dop_v1_", "whsec_", _KEY,
)  # fmt: skip
_AT = "[!-~À-ɏ！-～][@＠][0-9A-Za-z０-９Ａ-Ｚａ-ｚ]"
_PATTERNS = (
    # seven digits with separators, or four numbers with points
    (
        "",
        r"\d(?:(?:[ \u00a0\u2000-\u200a\u202f\u3000().\-/‐-―−﹘﹣（）．－／]{0,3}\d){6}|[.．]\d{1,3}[.．]\d{1,3}[.．]\d)",
    ),
    ("", rf"[{PLATE_PROVINCES}][A-Za-zＡ-Ｚａ-ｚ]"),
    ("", "|".join(map(re.escape, _SECRETS))),
    ("@", _AT),
    ("＠", _AT),
    (":", "[23Ff][0-9A-Fa-f]{3}:"),
    ("=", "(?i:token|key|secret|sign|sig|signature|password|passwd|pwd|auth|session_?id|sid|credential|ticket)="),
)
"""(a character that must be there, or none; pattern)."""
PATTERN = "|".join(pattern for _, pattern in _PATTERNS)
"""All of them, for polars."""
_CHECKS = [(needle, re.compile(pattern)) for needle, pattern in _PATTERNS]


def any_in(text: str, start: int = 0, end: int = sys.maxsize) -> bool:
    """Whether a hint lies within [start, end)."""
    for needle, pattern in _CHECKS:
        if (not needle or text.find(needle, start, end) >= 0) and pattern.search(text, start, end):
            return True
    return False


def places(text: str, start: int) -> list[tuple[int, int]]:
    """Stretches from ``start`` on, by position, with which every segment overlaps that may hold something."""
    found = [(m, m + CONTEXT + 1) for m in _keys(text, max(0, start - CONTEXT))]
    for needle, pattern in _CHECKS:
        if not needle or text.find(needle, start) >= 0:
            found += [m.span() for m in pattern.finditer(text, start)]
    return sorted(found)


def below_key(text: str, at: int) -> bool:
    """Whether the header of a private key may stand before ``at``."""
    return text.find(_KEY, max(0, at - CONTEXT), at) >= 0


def _keys(text: str, start: int) -> Iterator[int]:
    while (start := text.find(_KEY, start)) >= 0:
        yield start
        start += 1
