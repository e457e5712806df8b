"""XLSX workbooks."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tuneloop.data.readers import ReadOptions, reader_of
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError

openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (tuneloop[office])")
SHARED = Path(__file__).parents[5] / "shared" / "data"


def book(path: Path, merged: tuple[str, ...] = (), **sheets: list[list[Any]]) -> Path:
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for title, rows in sheets.items():
        sheet = workbook.create_sheet(title)
        for row in rows:
            sheet.append(row)
        for area in merged:
            sheet.merge_cells(area)
    workbook.save(path)
    return path


def open_(path: Path) -> RawFile:
    return reader_of(path)(path, path.name, ReadOptions())


def test_every_sheet_is_read_and_rows_know_their_place(tmp_path: Path) -> None:
    file = open_(book(tmp_path / "a.xlsx", One=[["q", "a"], [1, "x"], [], [2, "y"]], Empty=[], Two=[["q"], ["z"]]))
    assert [(r.origin(file.name), dict(r.fields)) for r in file.rows] == [
        ("a.xlsx:One!2", {"q": 1, "a": "x"}),
        ("a.xlsx:One!4", {"q": 2, "a": "y"}),
        ("a.xlsx:Two!2", {"q": "z"}),
    ]
    assert file.facts == {"encoding": "xlsx", "blank_lines": 1, "sheets": 2}


def test_days_moments_truths_and_numbers_become_what_json_has(tmp_path: Path) -> None:
    cells = [datetime(2024, 5, 1), datetime(2024, 5, 1, 10, 30), True, 2.5, None]
    file = open_(book(tmp_path / "a.xlsx", S=[list("abcde"), cells, [1, 2, 3, 4, 5]]))
    assert list(next(file.rows).fields.values()) == ["2024-05-01", "2024-05-01T10:30:00", True, 2.5, None]


def test_a_title_above_the_header_is_a_row_with_that_reason(tmp_path: Path) -> None:
    rows = [["Tickets of May"], [], ["text", "label", "n"], ["lost", "card", 1], ["fee", "card", 2]]
    for merged in ((), ("A1:C1",)):
        first, *others = open_(book(tmp_path / "a.xlsx", merged, S=rows)).rows
        assert first.problem == ("read", "not a row: it stands above the header in row 3")
        assert first.raw.startswith("Tickets of May")
        assert [r.fields["text"] for r in others] == ["lost", "fee"]


def test_merged_cells_repeat_their_value(tmp_path: Path) -> None:
    rows = [["topic", "text"], ["card", "lost"], [None, "stolen"], [None, "late"], ["fee", "high"]]
    file = open_(book(tmp_path / "a.xlsx", ("A2:A4",), S=rows))
    assert [r.fields["topic"] for r in file.rows] == ["card", "card", "card", "fee"]


def test_cells_without_a_title_get_a_numbered_column(tmp_path: Path) -> None:
    file = open_(book(tmp_path / "a.xlsx", S=[["text", "label"], ["a", "b", "note"]]))
    assert [dict(r.fields) for r in file.rows] == [{"text": "a", "label": "b", "column_3": "note"}]


def test_a_cell_far_outside_the_table_costs_its_row_and_says_so(tmp_path: Path) -> None:
    rows = [["text", "label"], *[["a", "b"]] * 60, ["a", "b", None, "stray"]]
    last = list(open_(book(tmp_path / "a.xlsx", S=rows)).rows)[-1]
    assert last.problem == ("read", "ragged: 4 cells where the header has 2")


@pytest.mark.parametrize("name", ["a.xls", "a.xlsx"])
def test_an_old_workbook_says_how_to_convert_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    with pytest.raises(DataError) as error:
        open_(tmp_path / name)
    assert f"soffice --headless --convert-to xlsx {name}" in str(error.value)


def test_text_that_is_called_xls_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.xls").write_text("text\tlabel\nx\ty\n", encoding="utf-8")
    assert [dict(r.fields) for r in open_(tmp_path / "a.xls").rows] == [{"text": "x", "label": "y"}]


def test_a_cut_workbook_is_refused(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", S=[["a"], [1]])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be opened: BadZipFile"):
        open_(path)


def test_a_real_workbook() -> None:
    path = SHARED / "docs" / "test.xlsx"
    if not path.exists():
        pytest.skip("../shared/data/docs is not on this machine")
    rows = list(open_(path).rows)
    assert rows[0].origin(path.name) == "test.xlsx:Sheet1!2"
    assert rows[0].fields == {"Alpha": 89, "Beta": 82, "Gamma": 100, "Delta": 12}  # as spreadsheet programs show it
    assert not [row for row in rows if row.problem]
