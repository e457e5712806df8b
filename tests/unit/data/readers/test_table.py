"""CSV with everything that goes wrong in CSV."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.data.readers.dialect import sniff_delimiter
from tuneloop.data.readers.stream import Decoding, TextStream
from tuneloop.data.readers.table import read_table
from tuneloop.data.readers.unpack import Memory
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError


def read(text: str, name: str = "rows.csv", delimiter: str | None = None) -> RawFile:
    return read_table(TextStream(Memory(text.encode()), name, Decoding("utf-8")), name, delimiter=delimiter)


def test_rows_know_their_first_line_and_fields_may_hold_line_breaks() -> None:
    file = read('text,label\n"one\ntwo, ""quoted""",a\nthree,b\n')

    assert file.columns == ("text", "label")
    assert [(r.line, dict(r.fields)) for r in file.head] == [
        (2, {"text": 'one\ntwo, "quoted"', "label": "a"}),
        (4, {"text": "three", "label": "b"}),
    ]
    assert file.head[0].raw == '"one\ntwo, ""quoted""",a'


def test_an_open_quote_drops_its_own_line_only() -> None:
    file = read('text,label\n"never closed,a\nfine,b\n"also, fine",c\nlast,d\n')

    assert [(r.line, r.problem and r.problem[1], r.fields.get("label")) for r in file.head] == [
        (2, "broken quote: it opens here and is not closed correctly by line 4", None),
        (3, None, "b"),
        (4, None, "c"),
        (5, None, "d"),
    ]


def test_the_rest_of_a_broken_row_is_not_taken_for_a_row() -> None:
    file = read('text,label\n"Dear bank\nI am "sad" today\nbye",a\nfine,b\n')

    assert [(r.line, r.problem is not None) for r in file.head] == [(2, True), (3, True), (4, True), (5, False)]
    assert [r.problem[1].split(":")[0] for r in file.head if r.problem] == ["broken quote", "ragged", "broken quote"]


def test_a_multi_line_row_directly_below_a_broken_one_survives() -> None:
    file = read('text,label\n"broken,a\n"two\nlines",b\nlast,c\n')

    assert [(r.line, r.fields.get("label")) for r in file.head] == [(2, None), (3, "b"), (5, "c")]


def test_an_open_quote_at_the_end_of_the_file_swallows_nothing() -> None:
    file = read('text,label\n"open,a\nb,b\nc,c\nd,d')

    assert [r.fields.get("text") for r in file.head] == [None, "b", "c", "d"]


def test_quotes_inside_a_field_are_text() -> None:
    file = read('text,label\nthe 5" screen,a\nhe said "no",b\n"a" b,c\n')

    assert [r.fields["text"] for r in file.head] == ['the 5" screen', 'he said "no"', "a b"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("only text", ("truncated", "ragged: 1 of 2 fields")),
        ("a,b,c", ("read", "ragged: 3 fields where the header has 2")),
        ("a\x00b,c", ("read", "zero byte: the row holds byte 0x00")),
    ],
)
def test_rows_of_the_wrong_shape_say_why(row: str, problem: tuple[str, str]) -> None:
    assert read(f"text,label\n{row}\nx,y\n").head[0].problem == problem


def test_empty_cells_that_a_spreadsheet_appends_are_cut_off() -> None:
    assert dict(read("text,label\na,b,,,\n").head[0].fields) == {"text": "a", "label": "b"}


def test_blank_lines_are_counted_and_are_not_rows() -> None:
    file = read("\ntext,label\n\na,b\n   \nc,d\n\n")

    assert [r.line for r in file.head] == [4, 6]
    assert file.facts["blank_lines"] == 3
    assert file.header_line == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(delimiter: str) -> None:
    lines = [delimiter.join(row) for row in (["text", "label"], ["a, b; c", "x"], ["d", "y"], ['"e, f"', "z"])]
    assert sniff_delimiter(lines if delimiter != ";" else [line.replace("; c", "") for line in lines]) == delimiter


def test_one_column_file_reads_its_commas_as_text_only_when_told() -> None:
    assert sniff_delimiter(["text", "hello", "you"]) == ","
    assert read("text\nhello, you\n", delimiter="\t").head[0].fields == {"text": "hello, you"}


def test_repeated_and_missing_column_names_are_made_unique() -> None:
    assert read("text,,text\na,b,c\n").columns == ("text", "column_2", "text_2")


def test_header_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="no row below it"):
        read("text,label\n")


def test_lines_with_unknown_bytes_are_dropped_with_the_encoding() -> None:
    file = read_table(
        TextStream(Memory(b"text,label\na\xff,b\nc,d\n"), "rows.csv", Decoding("utf-8", "surrogateescape")), "rows.csv"
    )
    assert file.head[0].problem == ("read", "wrong encoding: bytes that are not utf-8")
    assert file.head[0].raw == "a\\xff,b"
    assert file.head[1].problem is None


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8))
def test_whatever_pythons_csv_writes_is_read_back_unchanged(table: list[tuple[str, str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("first", "second", "third"), *table])

    file = read(buffer.getvalue(), delimiter=",")

    assert [tuple(r.fields.values()) for r in file.head] == table
    assert all(r.problem is None for r in file.head)
