"""Boxes of text on a page -> lines and paragraphs in reading order. Used for recognised scans and for PDF text alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

SAME_LINE_OVERLAP = 0.5
"""Two boxes stand on one line when they share this part of the smaller one's height."""
COLUMN_LINES = 4
"""So many lines of running text on either side make two columns; fewer are a table or a label beside its value."""
COLUMN_WIDTH = 0.25
"""A line of running text fills this part of the page's text width."""
GUTTER_WIDTH = 1.0
"""Between columns lies a gap of at least so many line heights; between words there is less."""
LINE_FULL = 0.85
"""A line that reaches this part of the column's width runs on in the next one."""
PARAGRAPH_GAP = 0.8
"""A gap of this many line heights ends a paragraph."""
RUNNING_WIDTH = 15
"""A line of running text is at least so many times as wide as high: some 30 Latin or 15 Chinese characters."""
WIDE_GAP = 1.5
"""A gap of this many line heights inside a line separates the cells of a table: it becomes a tab."""
_BULLETS = ("•", "-", "–", "*", "·", "▪", "●", "○")


class Box(NamedTuple):
    """A stretch of text and where it stands; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float
    text: str

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def width(self) -> float:
        return self.right - self.left


def columns(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes in blocks to be read one after the other: columns of running text between the lines that span them."""
    if len(boxes) < 2 * COLUMN_LINES:
        return [list(boxes)]
    gutter = _gutter(boxes)
    if gutter is None:
        return [list(boxes)]
    blocks: list[list[Box]] = []
    left: list[Box] = []
    right: list[Box] = []
    spanning: list[Box] = []

    def flush_sides() -> None:
        for side in (left, right):
            if side:
                blocks.extend(columns(side))
                side.clear()

    for box in sorted(boxes, key=lambda b: (b.top + b.bottom, b.left)):
        if box.left < gutter < box.right:
            flush_sides()
            spanning.append(box)
        else:
            if spanning:
                blocks.append(spanning)
                spanning = []
            (left if box.right <= gutter else right).append(box)
    flush_sides()
    return [*blocks, spanning] if spanning else blocks


def _gutter(boxes: Sequence[Box]) -> float | None:
    """The x between two columns of running text that the fewest boxes cross, or None."""
    first, last = min(b.left for b in boxes), max(b.right for b in boxes)
    wide = [b for b in boxes if b.width >= COLUMN_WIDTH * (last - first)]
    gutter_width = GUTTER_WIDTH * statistics.median(b.height for b in boxes)
    best: tuple[int, float] | None = None
    for x in sorted({math.floor(b.left) - 0.5 for b in wide}):
        before, after = [b for b in wide if b.right <= x], [b for b in wide if b.left > x]
        crossing = sum(b.left < x < b.right for b in boxes)
        if min(len(before), len(after)) < COLUMN_LINES or crossing > min(len(before), len(after)) // 2:
            continue
        if min(b.left for b in after) - max(b.right for b in before) < gutter_width:
            continue
        shared = min(max(b.bottom for b in before), max(b.bottom for b in after)) - max(
            min(b.top for b in before), min(b.top for b in after)
        )
        if shared > 0 and (best is None or crossing < best[0]):
            best = (crossing, x)
    return best[1] if best else None


def rows(boxes: Sequence[Box]) -> list[Box]:
    """Boxes that share a height become one line, left to right; lines come top to bottom."""
    lines: list[list[Box]] = []
    for box in sorted(boxes, key=lambda b: (b.top + b.bottom, b.left)):
        for line in reversed(lines[-3:]):
            if _share_a_line(line[-1], box):
                line.append(box)
                break
        else:
            lines.append([box])
    return [_joined(sorted(line, key=lambda b: b.left)) for line in lines]


def _share_a_line(a: Box, b: Box) -> bool:
    overlap = min(a.bottom, b.bottom) - max(a.top, b.top)
    return overlap >= SAME_LINE_OVERLAP * min(a.height, b.height) and overlap > 0


def _joined(line: Sequence[Box]) -> Box:
    text, end = line[0].text, line[0].right
    top, bottom = min(b.top for b in line), max(b.bottom for b in line)
    for box in line[1:]:
        text += ("\t" if box.left - end > WIDE_GAP * (bottom - top) else " ") + box.text
        end = max(end, box.right)
    return Box(line[0].left, top, end, bottom, text)


def blocks(boxes: Sequence[Box]) -> list[list[Box]]:
    """The lines of a page in reading order, a list for each column or spanning block."""
    return [lines for group in columns([box for box in boxes if box.text.strip()]) if (lines := rows(group))]


def paragraphs(lines: Sequence[Box]) -> list[list[str]]:
    """Lines of one block, those of one paragraph together.

    A line runs on when it is running text (not the row of a table) and fills the column, the next one is no list item
    and as large, and no gap lies between them.
    """
    if not lines:
        return []
    left, right = min(b.left for b in lines), max(b.right for b in lines)
    height = statistics.median(b.height for b in lines)
    out = [[lines[0].text]]
    for line, following in pairwise(lines):
        full = line.right - left >= LINE_FULL * (right - left) and line.width >= RUNNING_WIDTH * height
        text = "\t" not in line.text + following.text and not following.text.startswith(_BULLETS)
        near = following.top - line.bottom <= PARAGRAPH_GAP * height
        same_size = 0.7 < (following.height / line.height if line.height else 1) < 1.4
        if full and text and near and same_size:
            out[-1].append(following.text)
        else:
            out.append([following.text])
    return out
