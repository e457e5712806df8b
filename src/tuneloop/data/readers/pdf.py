"""PDF -> a row a page; a page without a text layer is recognised where the ocr extra is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.pdf_text import Page, count_words, drop_running_heads, page_text, read_page
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import MissingExtraError, need

POINTS_PER_INCH = 72


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Begin to read. A page without text is a row with its reason, and so is a file that cannot be opened.

    Text layers of all pages are read before the first row (running heads show only then); recognition happens row by row.
    """
    facts: dict[str, Any] = {"encoding": "PDF", "pages": 0, "scanned_pages": 0, "running_heads": 0, "unsure_lines": 0}
    pages = _pages(path, options, facts)
    return RawFile.start(name, _whole(pages) if options.documents.pdf == "file" else pages, None, facts)


def _whole(pages: Iterator[RawRow]) -> Iterator[RawRow]:
    """The readable pages as one row; the others stay rows with their reasons."""
    texts: list[RawRow] = []
    for page in pages:
        if page.problem:
            yield page
        else:
            texts.append(page)
    if texts:
        text = "\n\n".join(page.raw for page in texts)
        first = texts[0]
        yield RawRow(first.line, text, {"text": text, "title": first.fields["title"], "page": first.line}, place="all")


def _pages(path: Path, options: ReadOptions, facts: dict[str, Any]) -> Iterator[RawRow]:
    pdfium = need("pypdfium2", "documents")
    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        yield RawRow(1, "", problem=(READ, _why_closed(str(error), path)))
        return
    try:
        pages = [read_page(pdfium, document, i) for i in range(len(document))]
        facts["pages"] = len(pages)
        facts["running_heads"] = drop_running_heads(pages)
        title = " ".join(document.get_metadata_value("Title").split())
        source = _Source(document, title, count_words(pages), options, facts)
        for i, page in enumerate(pages):
            yield source.row(i, page)
    finally:
        document.close()


def _why_closed(error: str, path: Path) -> str:
    if path.stat().st_size == 0:
        return "empty: the file has no bytes"
    if "password" in error.lower():
        return "encrypted: the PDF asks for a password; save a copy without one"
    return f"damaged: not a PDF that can be opened ({error.strip()})"


@dataclass(frozen=True, slots=True)
class _Source:
    """An open document and what its pages share."""

    document: Any
    title: str
    words: Counter[str]
    options: ReadOptions
    facts: dict[str, Any]

    def row(self, index: int, page: Page) -> RawRow:
        number, confidence = index + 1, None
        if page.scanned:
            self.facts["scanned_pages"] += 1
            page, confidence = self._recognised(index)
        text = page_text(page.blocks, self.words)
        problem = page.problem or ("" if text else "no text: the page is blank")
        if problem:
            return RawRow(number, "", problem=(READ, problem), place=f"p{number}")
        fields: dict[str, Any] = {"text": text, "title": self.title, "page": number}
        if confidence is not None:
            fields["ocr_confidence"] = confidence
        return RawRow(number, text, fields, place=f"p{number}")

    def _recognised(self, index: int) -> tuple[Page, float | None]:
        """A scanned page and the mean confidence of its lines."""
        settings = self.options.documents
        if not settings.ocr:
            return Page(problem="scanned: the page has no text layer; set data.documents.ocr: true"), None
        from tuneloop.data.readers import scan

        page = self.document[index]
        try:
            pixels = page.render(scale=settings.ocr_resolution_dpi / POINTS_PER_INCH).to_numpy()
            seen = scan.recognise(pixels[:, :, :3], settings.ocr_min_confidence)
        except MissingExtraError as error:
            return Page(problem=f"scanned: the page has no text layer; {error.hint}"), None
        finally:
            page.close()
        self.facts["unsure_lines"] += seen.unsure_lines
        if not seen.blocks:
            return Page(problem="no text: nothing was recognised on the scanned page"), None
        return Page(seen.blocks), seen.confidence
