"""Word documents -> Markdown: headings, paragraphs, lists, tables, footnotes; a row a section or the whole file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.cut import cut
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import MissingExtraError, need

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
_HEADING = re.compile(r"heading ([1-9])$", re.I)
_CONTENTS = re.compile(r"toc( \d| heading)", re.I)
_MEANS_MARKDOWN = re.compile(r"#{1,6}\s")


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Begin to read; a file that cannot be opened becomes a row with its reason.

    Headers, footers and comments of the pages are not part of the text; deleted text of tracked changes is left out,
    inserted text is in. The lines of a table of contents are left out and counted.

    Raises:
        MissingExtraError: The documents extra is not installed.
    """
    facts: dict[str, Any] = {"encoding": "DOCX", "contents_lines": 0}
    return RawFile.start(name, _rows(path, options, facts), None, facts)


def _rows(path: Path, options: ReadOptions, facts: dict[str, Any]) -> Iterator[RawRow]:
    try:
        document = need("docx", "documents").Document(str(path))
        lines = list(_Body(document, facts).lines())
        title = " ".join((document.core_properties.title or "").split())
    except MissingExtraError:
        raise
    except Exception as error:  # damaged XML makes python-docx raise nearly anything
        yield RawRow(1, "", problem=(READ, _why_closed(path, error)))
        return
    number = 0
    for number, piece in enumerate(cut(lines, options.documents.docx), 1):
        fields = {"text": piece.text, "title": piece.title or title, "section": number}
        yield RawRow(number, piece.text, fields, place=f"section {number}")
    if not number:
        yield RawRow(1, "", problem=(READ, "no text: the document holds none"))


def _why_closed(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return "empty: the file has no bytes"
    if start == _OLD_OFFICE:
        return "encrypted, or an old .doc file: save it without a password as .docx"
    return f"damaged: not a Word document that can be opened ({type(error).__name__})"


class _Body:
    """Walks over the body of a document."""

    def __init__(self, document: Any, facts: dict[str, Any]) -> None:
        self._document, self._facts = document, facts
        self._styles = {style.style_id: style for style in document.styles}
        self._numbered: Counter[tuple[str, int]] = Counter()
        self._formats = _number_formats(document)
        self._notes = _footnotes(document)
        self._waiting: list[str] = []

    def lines(self) -> Iterator[str]:
        """Markdown, line by line, an empty line between blocks; footnotes stand at the end of their section."""
        last_was_item = False
        for element in _blocks(self._document.element.body):
            if element.tag == f"{_W}tbl":
                yield from ("", *self._table(element))
                last_was_item = False
                continue
            text = self._text(element).strip()
            level = self._heading_level(element)
            if not text or level is None:
                self._facts["contents_lines"] += level is None and bool(text)
                continue
            marker = "" if level else self._list_marker(element)
            if level:
                yield from self._footnotes_due()
            if not (marker and last_was_item):
                yield ""
            last_was_item = bool(marker)
            yield from self._paragraph(text, level, marker)
        yield from self._footnotes_due()

    def _paragraph(self, text: str, level: int, marker: str) -> Iterator[str]:
        if level:
            yield f"{'#' * min(level, 6)} {' '.join(text.split())}"
            return
        for i, line in enumerate(text.split("\n")):
            # A paragraph that happens to begin like a heading must not become one.
            escaped = f"\\{line}" if _MEANS_MARKDOWN.match(line) else line
            yield (marker if i == 0 else " " * len(marker)) + escaped

    def _footnotes_due(self) -> Iterator[str]:
        for note in self._waiting:
            yield from ("", f"[^{note}]: {self._notes[note]}")
        self._waiting = []

    def _heading_level(self, paragraph: Any) -> int | None:
        """0 for body text, 1 to 9 for headings, None for lines of the table of contents."""
        found = paragraph.find(f"{_W}pPr/{_W}pStyle")
        style = self._styles.get(found.get(f"{_W}val")) if found is not None else None
        if style is None:
            return 0
        if _CONTENTS.match(style.name or ""):
            return None
        if (style.name or "").casefold() == "title":
            return 1
        while style is not None:
            if heading := _HEADING.match(style.name or ""):
                return int(heading[1])
            outline = style.element.find(f"{_W}pPr/{_W}outlineLvl")
            if outline is not None and int(outline.get(f"{_W}val")) < 9:  # 9 is body text
                return int(outline.get(f"{_W}val")) + 1
            style = style.base_style
        return 0

    def _list_marker(self, paragraph: Any) -> str:
        """``- `` or ``3. `` with its indentation; empty: not an item of a list."""
        numbering = self._numbering_of(paragraph)
        if numbering is None:
            return ""
        number, depth = numbering
        indent = "  " * depth
        if self._formats.get((number, depth), "bullet") in ("bullet", "none"):
            return f"{indent}- "
        self._numbered[number, depth] += 1
        for deeper in range(depth + 1, 9):
            self._numbered[number, deeper] = 0
        return f"{indent}{self._numbered[number, depth]}. "

    def _numbering_of(self, paragraph: Any) -> tuple[str, int] | None:
        """Id of the list and depth of the item, from the paragraph or its style."""
        properties = paragraph.find(f"{_W}pPr")
        if properties is None:
            return None
        named = properties.find(f"{_W}pStyle")
        style = self._styles.get(named.get(f"{_W}val")) if named is not None else None
        while properties is not None or style is not None:
            found = properties.find(f"{_W}numPr") if properties is not None else None
            if found is not None:
                number, depth = found.find(f"{_W}numId"), found.find(f"{_W}ilvl")
                if number is not None:
                    value = number.get(f"{_W}val")
                    return None if value == "0" else (value, int(depth.get(f"{_W}val")) if depth is not None else 0)
            if style is None:
                return None
            properties, style = style.element.find(f"{_W}pPr"), style.base_style
        return None

    def _table(self, table: Any) -> Iterator[str]:
        """A Markdown table; its first row is the head. A table inside a cell becomes text."""
        rows = [
            [text for cell in _children(row, "tc") for text in self._spanning(cell)] for row in _children(table, "tr")
        ]
        width = max((len(row) for row in rows), default=0)
        for i, row in enumerate(rows):
            yield "| " + " | ".join(row + [""] * (width - len(row))) + " |"
            if i == 0:
                yield "|" + " --- |" * width

    def _spanning(self, cell: Any) -> list[str]:
        """The text of a cell, and empty cells for the other columns that it spans."""
        span = cell.find(f"{_W}tcPr/{_W}gridSpan")
        return [self._cell(cell), *[""] * (int(span.get(f"{_W}val")) - 1 if span is not None else 0)]

    def _cell(self, cell: Any) -> str:
        words = (
            self._text(block)
            if block.tag == f"{_W}p"
            else " ".join(self._cell(inner) for row in _children(block, "tr") for inner in _children(row, "tc"))
            for block in _blocks(cell)
        )
        return " ".join(" ".join(words).split()).replace("|", "\\|")

    def _text(self, paragraph: Any) -> str:
        out: list[str] = []
        for node in _visible(paragraph):
            if node.tag == f"{_W}t":
                out.append(node.text or "")
            elif node.tag == f"{_W}footnoteReference" and (note := node.get(f"{_W}id")) in self._notes:
                out.append(f"[^{note}]")
                self._waiting.append(note)
            else:
                out.append(_SIGNS.get(node.tag, ""))
        return "".join(out)


_SIGNS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}


def _visible(paragraph: Any) -> Iterator[Any]:
    """The parts of a paragraph, tracked insertions and text boxes too, without what stands twice or was deleted."""
    for node in paragraph:
        if node.tag in (_FALLBACK, f"{_W}pPr", f"{_W}del", f"{_W}moveFrom", f"{_W}rPr"):
            continue
        yield node
        yield from _visible(node)


def _blocks(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, those inside content controls too."""
    for element in parent:
        if element.tag in (f"{_W}p", f"{_W}tbl"):
            yield element
        elif element.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml", f"{_W}ins"):
            yield from _blocks(element)


def _children(parent: Any, tag: str) -> Iterator[Any]:
    for element in parent:
        if element.tag == f"{_W}{tag}":
            yield element
        elif element.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml"):
            yield from _children(element, tag)


def _number_formats(document: Any) -> dict[tuple[str, int], str]:
    """(id of a list, depth) -> bullet, decimal, ..."""
    try:
        root = document.part.numbering_part.element
    except (KeyError, NotImplementedError):  # no list is defined; some programs use them all the same
        return {}
    abstract = {
        (definition.get(f"{_W}abstractNumId"), int(level.get(f"{_W}ilvl"))): str(kind.get(f"{_W}val"))
        for definition in root.iter(f"{_W}abstractNum")
        for level in definition.iter(f"{_W}lvl")
        if (kind := level.find(f"{_W}numFmt")) is not None
    }
    return {
        (number.get(f"{_W}numId"), depth): kind
        for number in root.iter(f"{_W}num")
        for (name, depth), kind in abstract.items()
        if (refers := number.find(f"{_W}abstractNumId")) is not None and refers.get(f"{_W}val") == name
    }


def _footnotes(document: Any) -> Mapping[str, str]:
    """Id of each footnote -> its text."""
    parse = need("docx.oxml", "documents").parse_xml
    for relation in document.part.rels.values():
        if relation.reltype.endswith("/footnotes") and not relation.is_external:
            root = parse(relation.target_part.blob)
            notes = {n.get(f"{_W}id"): n for n in root.iter(f"{_W}footnote") if n.get(f"{_W}type") is None}
            return {key: " ".join("".join(t.text or "" for t in n.iter(f"{_W}t")).split()) for key, n in notes.items()}
    return {}
