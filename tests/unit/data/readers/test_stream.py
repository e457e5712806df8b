"""Reading in pieces: wherever the pieces end, the rows are those of the whole text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.data.readers import ReadOptions, reader_of, stream
from tuneloop.data.readers.array import read_json
from tuneloop.data.readers.encoding import open_text
from tuneloop.data.readers.lines import read_json_lines
from tuneloop.data.readers.stream import Decoding, TextStream
from tuneloop.data.readers.table import read_table
from tuneloop.data.readers.unpack import Memory
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError


class Crumbs:
    """Bytes in pieces of a few."""

    damage: str | None = None

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def pieces(self) -> Iterator[bytes]:
        yield from (self._data[at : at + self._size] for at in range(0, len(self._data), self._size))


READERS = {"json": read_json, "jsonl": read_json_lines, "csv": read_table}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def outcome(kind: str, source: Crumbs | Memory) -> object:
    text = TextStream(source, f"rows.{kind}", Decoding("utf-8", "surrogateescape"))
    try:
        file: RawFile = READERS[kind](text, f"rows.{kind}")
        return [(r.line, r.nth, r.raw, dict(r.fields), r.problem) for r in file.rows], file.columns, file.facts
    except DataError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(READERS)), st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3)), st.integers(1, 9),
    st.sampled_from([None, 1]), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=3),
)  # fmt: skip
def test_rows_do_not_depend_on_where_pieces_end(
    kind: str, rows: list[dict[str, object]], size: int, indent: int | None, cuts: list[tuple[float, bytes]]
) -> None:
    whole = {
        "json": json.dumps(rows, ensure_ascii=False, indent=indent),
        "jsonl": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "csv": "text,label\r\n" + "\n".join(f'"{json.dumps(row)[1:-1]}",x' for row in rows),
    }[kind].encode()
    for place, insert in cuts:
        at = int(place * len(whole))
        whole = whole[:at] + insert + whole[at + 1 :]

    assert outcome(kind, Crumbs(whole, size)) == outcome(kind, Memory(whole))


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16", "cp932", "utf-32"])
def test_encoding_is_the_same_in_any_pieces(codec: str) -> None:
    data = ("text,label\r\n" + "高血圧の患者は食べられますか,内科\r\n" * 40).encode(codec)
    whole = open_text(Memory(data), "rows.csv")
    for size in (1, 2, 7):
        crumbs = open_text(Crumbs(data, size), "rows.csv")
        assert crumbs.decoding == whole.decoding
        assert list(crumbs.lines()) == list(whole.lines())


def test_a_text_that_begins_with_a_megabyte_of_english_is_still_gb18030() -> None:
    data = b"all of this is plain\n" * 60_000 + "我的银行卡还没有收到\n".encode("gb18030") * 20
    text = open_text(Memory(data), "rows.txt")
    assert text.encoding == "gb18030"
    assert list(text.lines())[-1] == "我的银行卡还没有收到"


def test_reading_stops_where_the_reader_stops(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"q": 1}\n' * 200_000)
    file = reader_of(path)(path, path.name, ReadOptions())
    assert len(file.head) == 1000
    assert next(file.rows).line == 1
    assert file.facts["blank_lines"] == 0


def test_an_endless_line_is_dropped_and_its_neighbours_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST", 50)
    data = b'{"q": "one"}\n{"q": "' + b"x" * 5000 + b'"}\n{"q": "two"}\n'
    rows = list(read_json_lines(TextStream(Crumbs(data, 16), "rows", Decoding("utf-8")), "rows").rows)

    assert [(r.line, r.fields.get("q"), r.problem and r.problem[1]) for r in rows] == [
        (1, "one", None),
        (2, None, "too long: more than 50 characters without an end"),
        (3, "two", None),
    ]
    assert rows[1].raw == '{"q": "' + "x" * 44


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"q": "plain"}\n' * 40_000)
    file = reader_of(path)(path, path.name, ReadOptions())
    with path.open("r+b") as other:
        other.seek(500_000)
        other.write(b"\xff\xff")
    with pytest.raises(DataError, match="it changed while it was read"):
        list(file.rows)


def test_a_list_under_a_usual_key_streams_whatever_stands_before_it() -> None:
    whole = b'{"version": "1", "n": 2,\n "data": [{"q": "a"},\n{"q": }, {"q": "b"}], "more": true}'
    file = read_json(TextStream(Crumbs(whole, 5000), "rows", Decoding("utf-8")), "rows.json")
    assert [(r.line, r.fields.get("q"), r.problem is None) for r in file.rows] == [
        (2, "a", True),
        (3, None, False),
        (3, "b", True),
    ]


def test_one_huge_json_object_says_how_to_make_rows_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneloop.data.readers.array._OBJECT_CHARS", 1000)
    whole = json.dumps({str(i): {"q": "x"} for i in range(200)}).encode()
    with pytest.raises(DataError) as error:
        list(read_json(TextStream(Crumbs(whole, 100), "rows", Decoding("utf-8")), "rows.json").rows)
    assert str(error.value).splitlines() == [
        "rows.json:1: one JSON object of more than 1,000 characters",
        "hint: write its rows one a line: jq -c '.data[]' rows.json > rows.jsonl",
    ]
