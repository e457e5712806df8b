"""PDF pages, made here with PDFium itself or written out by hand."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tuneloop.data.documents import DocumentConfig
from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.pdf import read
from tuneloop.data.readers.pdf_text import joined, upright
from tuneloop.data.rows import RawFile, RawRow

pdfium = pytest.importorskip("pypdfium2", reason="needs the documents extra", exc_type=ImportError)

WIDTH, HEIGHT = 400, 600
Words = Sequence[tuple[float, float, str]]
"""(left, distance of the baseline from the top, text) in points."""


def write(path: Path, *pages: Words, rotation: int = 0, image: bool = False) -> Path:
    raw = pdfium.raw
    document = pdfium.PdfDocument.new()
    for words in pages:
        page = document.new_page(WIDTH, HEIGHT)
        for left, down, text in words:
            stretch = raw.FPDFPageObj_NewTextObj(document, b"Helvetica", 10.0)
            encoded = (text + "\x00").encode("utf-16-le")
            raw.FPDFText_SetText(stretch, ctypes.cast(encoded, raw.FPDF_WIDESTRING))
            raw.FPDFPageObj_Transform(stretch, 1, 0, 0, 1, left, HEIGHT - down)
            raw.FPDFPage_InsertObject(page, stretch)
        if image:
            _add_image(document, page)
        page.gen_content()
        page.set_rotation(rotation)
    document.save(path)
    document.close()
    return path


def _add_image(document: Any, page: Any) -> None:
    bitmap = pdfium.PdfBitmap.new_native(8, 8, pdfium.raw.FPDFBitmap_BGR)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, 8, 8)
    picture = pdfium.PdfImage.new(document)
    picture.set_bitmap(bitmap)
    picture.set_matrix(pdfium.PdfMatrix().scale(WIDTH, HEIGHT))
    page.insert_obj(picture)


def rows(path: Path, **settings: Any) -> list[RawRow]:
    return list(opened(path, **settings).rows)


def opened(path: Path, **settings: Any) -> RawFile:
    return read(path, "a.pdf", ReadOptions(documents=DocumentConfig(**settings)))


def reason(row: RawRow) -> str:
    assert row.problem is not None
    assert not row.fields
    return row.problem[1]


def test_a_page_is_a_row_with_its_place(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "a.pdf", [(50, 100, "The first page of the text.")], [(50, 100, "The second one.")]))
    assert [(row.origin("a.pdf"), row.raw, row.fields["page"]) for row in found] == [
        ("a.pdf:p1", "The first page of the text.", 1),
        ("a.pdf:p2", "The second one.", 2),
    ]


def test_text_is_read_from_the_top_whatever_its_order_in_the_file(tmp_path: Path) -> None:
    page = [(50, 300, "Third line here."), (50, 100, "First line here."), (50, 200, "Second line here.")]
    assert rows(write(tmp_path / "a.pdf", page))[0].raw.split("\n") == [
        "First line here.", "Second line here.", "Third line here.",
    ]  # fmt: skip


def test_columns_drawn_line_by_line_are_read_one_after_the_other(tmp_path: Path) -> None:
    page = [
        (left, 100.0 + 12 * i, f"{side} column, line {i} of six.")
        for i in range(6)
        for left, side in ((40, "Left"), (220, "Right"))
    ]
    text = rows(write(tmp_path / "a.pdf", page))[0].raw
    assert text.index("Left column, line 5") < text.index("Right column, line 0")


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_page_is_read_as_it_is_seen(rotation: int) -> None:
    # A glyph at the seen place (10, 20)-(14, 26) on a page seen as 400 x 600.
    unrotated = {
        90: (20, 10, 26, 14),  # PDF: x = y seen, y = x seen
        180: (400 - 14, 20, 400 - 10, 26),
        270: (600 - 26, 400 - 14, 600 - 20, 400 - 10),
    }[rotation]
    assert upright(unrotated, 400, 600, rotation) == (10, 20, 14, 26)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_lines_of_a_rotated_page_stay_whole(rotation: int, tmp_path: Path) -> None:
    page = [(50, 100, "Upside down or sideways, a line is a line.")]
    assert rows(write(tmp_path / "a.pdf", page, rotation=rotation))[0].raw == page[0][2]


def test_running_heads_and_page_numbers_are_taken_off_and_counted(tmp_path: Path) -> None:
    pages = [
        [(50, 30, "Annual report 2024"), (50, 300, f"Only here: {word}, and more."), (180, 580, f"Page {n} of 4")]
        for n, word in enumerate(("alpha", "beta", "gamma", "delta"), 1)
    ]
    file = opened(write(tmp_path / "a.pdf", *pages))
    assert [row.raw for row in file.rows] == [f"Only here: {w}, and more." for w in ("alpha", "beta", "gamma", "delta")]
    assert file.facts["running_heads"] == 8


def test_a_line_that_repeats_inside_the_pages_stays(tmp_path: Path) -> None:
    pages = [
        [(50, 100 + 40 * i, f"{n}{i} {'abcdefgh'[i]}{'stuvwxyz'[n]}") for i in range(4)]
        + [(50, 280, "Answer yes or no."), *[(50, 320 + 40 * i, f"{'klmnop'[i]} {'stuvwxyz'[n]}") for i in range(4)]]
        for n in range(4)
    ]
    assert all("Answer yes or no." in row.raw for row in rows(write(tmp_path / "a.pdf", *pages)))


def test_the_whole_file_as_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pdf", [(50, 100, "First page of two.")], [], [(50, 100, "Last page of two.")])
    found = rows(path, pdf="file")
    assert [row.raw for row in found if not row.problem] == ["First page of two.\n\nLast page of two."]
    assert [(row.place, reason(row)) for row in found if row.problem] == [("p2", "no text: the page is blank")]


def test_a_scanned_page_says_which_extra_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    from tuneloop.data.readers import scan

    scan.engine.cache_clear()
    path = write(tmp_path / "a.pdf", [], image=True)
    assert [reason(row) for row in rows(path)] == ["scanned: the page has no text layer; pip install 'tuneloop[ocr]'"]


def test_recognition_can_be_switched_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pdf", [], image=True)
    assert reason(rows(path, ocr=False)[0]) == "scanned: the page has no text layer; set data.documents.ocr: true"


PADDING = "<" + "00" * 32 + ">"
ENCRYPTED = f"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj
4 0 obj<</Filter/Standard/V 1/R 2/O{PADDING}/U{PADDING}/P -4>>endobj
trailer<</Root 1 0 R/Encrypt 4 0 R/ID[<00><00>]/Size 5>>
"""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 and then nothing", "damaged"),
        (b"hello", "damaged"),
        (ENCRYPTED.encode(), "encrypted"),
    ],
    ids=["empty", "cut off", "other", "encrypted"],
)
def test_a_file_that_cannot_be_opened_is_a_row_with_its_reason(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    assert [reason(row).split(":")[0] for row in rows(path)] == [why]


@pytest.mark.parametrize(
    ("lines", "words", "text"),
    [
        (["a divi-", "ded word"], {}, "a divided word"),
        (["a divi\ufffe", "ded word"], {}, "a divided word"),
        (["some self-", "control"], {"self-control": 2}, "some self-control"),
        (["the North-", "South line"], {}, "the North- South line"),
        (["pages 3-", "7"], {}, "pages 3- 7"),
        (["中文的", "一行"], {}, "中文的一行"),
        (["plain", "words"], {}, "plain words"),
    ],
)
def test_lines_of_a_paragraph_are_joined(lines: list[str], words: dict[str, int], text: str) -> None:
    assert joined(lines, Counter(words)) == text
