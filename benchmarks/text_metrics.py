"""How much of a known text was recovered: the measures of benchmarks/documents.py and of the tests on real documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def token_f1(found: str, truth: str) -> float:
    """F1 over multisets of tokens, a token being a run of letters, digits or underscores, without regard to case.

    2 |F ∩ T| / (|F| + |T|): order does not count, repetition does.
    """
    a, b = (Counter(re.findall(r"\w+", text.casefold())) for text in (found, truth))
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def characters(text: str) -> str:
    """What recognition is judged by: everything but space, without regard to case."""
    return "".join(text.casefold().split())


def character_recall(found: str, truth: str) -> float:
    """Share of the true characters that were found, as multisets: order does not count."""
    a, b = Counter(characters(found)), Counter(characters(truth))
    return (a & b).total() / max(1, b.total())


def ordered_character_recall(found: str, truth: str) -> float:
    """Share of the true characters that were found in order: the longest common subsequence over the true length.

    It is (|F| + |T| - d) / 2 |T|, d being the edit distance by insertions and deletions.
    """
    a, b = characters(truth), characters(found)
    return longest_common_subsequence(a, b) / max(1, len(a))


def longest_common_subsequence(a: str, b: str) -> int:
    """Its length, bit-parallel (Hyyrö 2004, A note on bit-parallel alignment computation)."""
    masks: dict[str, int] = {}
    for i, letter in enumerate(a):
        masks[letter] = masks.get(letter, 0) | 1 << i
    full = (1 << len(a)) - 1
    open_bits = full
    for letter in b:
        matching = open_bits & masks.get(letter, 0)
        open_bits = ((open_bits + matching) | (open_bits - matching)) & full
    return len(a) - open_bits.bit_count()


def word_error_rate(found: str, truth: str) -> float:
    """Word edits (substitute, insert, delete) over true words; case and punctuation do not count."""
    a, b = (re.findall(r"[\w']+", text.casefold()) for text in (truth, found))
    return edit_distance(a, b) / max(1, len(a))


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def sroie_text(box_file: Path) -> str:
    """The text of a receipt's boxes in the order of the file: ``x1,y1,...,x4,y4,TEXT`` a line."""
    lines = box_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(parts[8] for line in lines if len(parts := line.split(",", 8)) == 9)
