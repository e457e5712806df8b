"""The text layer of PDF pages: characters -> lines in reading order -> paragraphs without running heads and hyphens."""

from __future__ import annotations

import ctypes
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from tuneloop.data.readers import layout
from tuneloop.data.readers.layout import Box

HEAD_LINES = 3
"""Running heads and feet stand in so many lines from the edge of a page."""
HEAD_SHARE, HEAD_PAGES = 0.3, 3
"""A running head stands there on this share of the pages (odd and even ones may differ), and on at least so many."""
SCANNED_CHARACTERS = 16
"""A page with an image and fewer visible characters than this is a scan (with a stamp or a page number over it)."""
UNMAPPED_SHARE = 0.3
"""A page with this share of characters without a Unicode meaning cannot be read as text: its fonts carry no mapping."""

_HYPHEN = "\ufffe"
"""What PDFium reports for a hyphen that divides a word at the end of a line (as 2 for single characters)."""
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_END, _START = re.compile(r"([^\W\d_]+)-$"), re.compile(r"([^\W\d_]+)")

Place = tuple[float, float, float, float]


@dataclass(slots=True)
class Page:
    """A page: its blocks of lines in reading order; ``scanned`` when it has to be recognised; or why it is unreadable."""

    blocks: list[list[Box]] = field(default_factory=list)
    scanned: bool = False
    problem: str = ""

    @property
    def lines(self) -> Iterator[Box]:
        return chain.from_iterable(self.blocks)


def read_page(pdfium: Any, document: Any, index: int) -> Page:
    """The text layer of one page."""
    try:
        page = document[index]
    except pdfium.PdfiumError as error:
        return Page(problem=f"damaged: the page cannot be opened ({error})")
    try:
        segments = _segments(pdfium.raw, page)
        unmapped = segments.unmapped > UNMAPPED_SHARE * segments.visible
        scanned = unmapped or (segments.visible < SCANNED_CHARACTERS and _has_image(pdfium.raw, page))
        return Page(scanned=True) if scanned else Page(layout.blocks(segments.boxes))
    finally:
        page.close()


def _has_image(raw: Any, page: Any) -> bool:
    return any(True for _ in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3))


def _segments(raw: Any, page: Any) -> _Segments:
    text = page.get_textpage()
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    edges = tuple(map(ctypes.byref, (left, right, bottom, top)))
    (width, height), rotation = page.get_size(), page.get_rotation()
    out = _Segments()
    try:
        for i in range(raw.FPDFText_CountChars(text.raw)):
            raw.FPDFText_GetCharBox(text.raw, i, *edges)
            place = upright((left.value, bottom.value, right.value, top.value), width, height, rotation)
            out.add(raw.FPDFText_GetUnicode(text.raw, i), place)
    finally:
        text.close()
    out.flush()
    return out


def upright(place: Place, width: float, height: float, rotation: int) -> Place:
    """PDF coordinates (left, bottom, right, top; y upwards, before rotation) -> left, top, right, bottom as seen.

    Args:
        width: Of the page as seen, in points; ``height`` likewise.
        rotation: Clockwise degrees by which the page is shown: 0, 90, 180 or 270.
    """
    left, bottom, right, top = place
    if rotation == 90:
        return bottom, left, top, right
    if rotation == 180:
        return width - right, bottom, width - left, top
    if rotation == 270:
        return width - top, height - right, width - bottom, height - left
    return left, height - top, right, height - bottom


class _Segments:
    """Characters one after the other -> stretches of text without a wide gap."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.visible = self.unmapped = 0
        self._text: list[str] = []
        self._edges: Place | None = None

    def add(self, code: int, place: Place) -> None:
        letter = _HYPHEN if code in (0xFFFE, 0x02) else chr(code)
        if letter in "\r\n":
            self.flush()
        elif letter.isspace():
            self._text.append(" ")
        else:
            self._add_visible(letter, place)

    def _add_visible(self, letter: str, place: Place) -> None:
        self.visible += 1
        if letter == "\ufffd" or letter < " " or "\ue000" <= letter <= "\uf8ff":
            self.unmapped += 1
            letter = "\ufffd"
        left, top, right, bottom = place
        e = self._edges
        if e and left > e[2] + layout.WIDE_GAP * (e[3] - e[1]):
            self.flush()
            e = None
        self._text.append(letter)
        self._edges = (min(e[0], left), min(e[1], top), max(e[2], right), max(e[3], bottom)) if e else place
        if letter == _HYPHEN:  # PDFium reports no line end after it
            self.flush()

    def flush(self) -> None:
        text = "".join(self._text).strip()
        if text and self._edges:
            self.boxes.append(Box(*self._edges, text))
        self._text, self._edges = [], None


def drop_running_heads(pages: Sequence[Page]) -> int:
    """Take lines that repeat at the edges off the pages, from the edge inwards; returns how many lines were taken."""
    texts = [page for page in pages if page.blocks]
    least = max(HEAD_PAGES, math.ceil(HEAD_SHARE * len(texts)))
    removed = 0
    for from_top in (True, False):
        edges = [_edge(page, from_top) for page in texts]
        seen = Counter(key for edge in edges for key in {_key(line) for line in edge})
        for page, edge in zip(texts, edges, strict=True):
            for line in edge:
                if seen[_key(line)] < least:
                    break
                next(block for block in page.blocks if line in block).remove(line)
                removed += 1
    return removed


def _edge(page: Page, from_top: bool) -> list[Box]:
    """The outermost lines, the outermost first."""
    return sorted(page.lines, key=lambda line: line.top if from_top else -line.bottom)[:HEAD_LINES]


def _key(line: Box) -> str:
    """Page numbers differ, the running head is the same."""
    return re.sub(r"\d+", "#", " ".join(line.text.casefold().split()))


def count_words(pages: Sequence[Page]) -> Counter[str]:
    """How often each word, and each word with a hyphen inside, stands in the document."""
    return Counter(w.casefold() for page in pages for line in page.lines for w in _WORD.findall(line.text))


def page_text(blocks: Sequence[Sequence[Box]], words: Counter[str]) -> str:
    """A paragraph a line, an empty line between blocks.

    Args:
        words: From :func:`count_words`; they decide whether ``self-`` before ``control`` keeps its hyphen.
    """
    parts = ("\n".join(joined(p, words) for p in layout.paragraphs(block)) for block in blocks)
    return "\n\n".join(part for part in parts if part)


def joined(lines: Sequence[str], words: Counter[str]) -> str:
    """The lines of one paragraph as one line. A divided word is joined; Chinese and Japanese lines need no space."""
    text = ""
    for line in (line.replace(_HYPHEN, "-") for line in lines):
        end, start = _END.search(text), _START.match(line)
        if end and start and line[0].islower():
            closed, hyphened = f"{end[1]}{start[1]}".casefold(), f"{end[1]}-{start[1]}".casefold()
            text = (text if words[hyphened] > words[closed] else text[:-1]) + line
        elif not text or (_no_space(text[-1]) and _no_space(line[:1])):
            text += line
        else:
            text += f" {line}"
    return text


def _no_space(letter: str) -> bool:
    """Whether it belongs to a script without spaces: CJK punctuation, kana, ideographs, full-width forms."""
    return "\u3000" <= letter <= "\u30ff" or "\u3400" <= letter <= "\u9fff" or "\uff00" <= letter <= "\uffef"
