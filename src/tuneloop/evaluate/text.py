"""ROUGE-L for every script. rouge-score's own tokenizer drops all but a-z and 0-9, so Chinese scores 0 with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff]|[^\W_\u3040-\u30ff\u3400-\u9fff"
    r"\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff]+"
)


def tokens(text: str) -> list[str]:
    """Words in lower case; a Chinese, Japanese or Korean character is a word of its own."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a machine word of columns at a time.

    Bit-parallel recurrence of Hyyrö, "Bit-parallel LCS-length computation revisited" (2004); a zero bit is a step up.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for token in b:
        hits = row & places.get(token, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(a) - row.bit_count()


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L F1 in 0..1 (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, with β = 1)."""
    r, a = tokens(reference), tokens(answer)
    if not r or not a:
        return 0.0
    common = lcs_length(r, a)
    return 2 * common / (len(r) + len(a))
