"""Word documents, made here with python-docx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuneloop.data.documents import DocumentConfig
from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.docx import read
from tuneloop.data.rows import RawRow

docx = pytest.importorskip("docx", reason="needs the documents extra", exc_type=ImportError)


def rows(document: Any, folder: Path, **settings: Any) -> list[RawRow]:
    path = folder / "a.docx"
    document.save(str(path))
    return list(read(path, "a.docx", ReadOptions(documents=DocumentConfig(**settings))).rows)


def text(document: Any, folder: Path) -> str:
    return "\n".join(row.raw for row in rows(document, folder, docx="file"))


def test_a_section_is_a_row_with_its_heading(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("Before any heading.")
    document.add_heading("Scope", 1)
    document.add_paragraph("What it covers.")
    document.add_heading("Limits", 2)
    document.add_paragraph("What it does not.")
    found = rows(document, tmp_path)
    assert [(r.origin("a.docx"), r.fields["title"], r.raw) for r in found] == [
        ("a.docx:section 1", "", "Before any heading."),
        ("a.docx:section 2", "Scope", "# Scope\n\nWhat it covers."),
        ("a.docx:section 3", "Limits", "## Limits\n\nWhat it does not."),
    ]


def test_the_whole_file_as_one_row(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("A", 1)
    document.add_paragraph("a")
    document.add_heading("B", 1)
    document.add_paragraph("b")
    assert [r.raw for r in rows(document, tmp_path, docx="file")] == ["# A\n\na\n\n# B\n\nb"]


def test_lists_keep_their_markers_and_numbers(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("one", style="List Bullet")
    document.add_paragraph("two", style="List Bullet")
    document.add_paragraph("first", style="List Number")
    document.add_paragraph("second", style="List Number")
    assert text(document, tmp_path) == "- one\n- two\n1. first\n2. second"


def test_tables_are_markdown_and_spanned_columns_stay_in_place(tmp_path: Path) -> None:
    document = docx.Document()
    table = document.add_table(3, 3)
    for r, words in enumerate((("a", "b", "c"), ("1|2", "x\ny", ""), ("wide", "", "end"))):
        for c, word in enumerate(words):
            table.cell(r, c).text = word
    table.cell(2, 0).merge(table.cell(2, 1))
    assert text(document, tmp_path).splitlines() == [
        "| a | b | c |", "| --- | --- | --- |", "| 1\\|2 | x y |  |", "| wide |  | end |",
    ]  # fmt: skip


def test_a_table_inside_a_cell_is_not_lost(tmp_path: Path) -> None:
    document = docx.Document()
    cell = document.add_table(1, 1).cell(0, 0)
    cell.text = "outer"
    cell.add_table(1, 1).cell(0, 0).text = "inner"
    assert "| outer inner |" in text(document, tmp_path)


def paragraph_xml(document: Any, inner: str) -> None:
    """Append a paragraph written as XML, before the section properties."""
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    document.element.body.insert(-1, parse_xml(f"<w:p {nsdecls('w')}>{inner}</w:p>"))


def test_inserted_text_of_tracked_changes_is_in_and_deleted_text_is_out(tmp_path: Path) -> None:
    document = docx.Document()
    paragraph_xml(
        document,
        "<w:r><w:t>kept </w:t></w:r><w:ins w:id='1' w:author='x'><w:r><w:t>inserted</w:t></w:r></w:ins>"
        "<w:del w:id='2' w:author='x'><w:r><w:delText>deleted</w:delText></w:r></w:del>",
    )
    assert text(document, tmp_path) == "kept inserted"


def test_text_in_a_content_control_is_not_lost(tmp_path: Path) -> None:
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    document = docx.Document()
    control = f"<w:sdt {nsdecls('w')}><w:sdtContent><w:p><w:r><w:t>in a form</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    document.element.body.insert(0, parse_xml(control))
    assert text(document, tmp_path) == "in a form"


def test_the_table_of_contents_is_left_out_and_counted(tmp_path: Path) -> None:
    document = docx.Document()
    document.styles.add_style("toc 1", docx.enum.style.WD_STYLE_TYPE.PARAGRAPH)
    document.add_paragraph("Scope ........ 3", style="toc 1")
    document.add_paragraph("Text.")
    path = tmp_path / "a.docx"
    document.save(str(path))
    file = read(path, "a.docx", ReadOptions())
    assert [row.raw for row in file.rows] == ["Text."]
    assert file.facts["contents_lines"] == 1


def test_body_text_that_looks_like_a_heading_stays_body_text(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("# 5 is the number")
    assert [(r.fields["title"], r.raw) for r in rows(document, tmp_path)] == [("", "\\# 5 is the number")]


def test_a_document_without_text_is_a_row_with_its_reason(tmp_path: Path) -> None:
    assert [r.problem for r in rows(docx.Document(), tmp_path)] == [("read", "no text: the document holds none")]


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "empty"), (b"PK\x03\x04 cut off", "damaged"), (b"\xd0\xcf\x11\xe0" + bytes(600), "encrypted, or an old .doc file")],
    ids=["empty", "cut off", "encrypted"],
)  # fmt: skip
def test_a_file_that_cannot_be_opened_is_a_row_with_its_reason(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    path.write_bytes(data)
    (row,) = read(path, "a.docx", ReadOptions()).rows
    assert row.problem is not None
    assert row.problem[1].split(":")[0] == why
