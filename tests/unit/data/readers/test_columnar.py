"""Parquet and Arrow."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from tuneloop.data.readers import ReadOptions, reader_of
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError

FRAME = pl.DataFrame(
    {
        "text": ["one", "二", None],
        "score": [0.5, math.nan, math.inf],
        "day": [date(2024, 5, 1), None, None],
        "moment": [datetime(2024, 5, 1, 10, 30), datetime(2024, 5, 1), None],
        "price": [Decimal("1.50"), None, None],
        "turns": [[{"role": "user", "content": "hi"}], [], None],
        "kind": pl.Series(["x", "y", None], dtype=pl.Categorical),
        "image": [b"\xff\x00", b"plain", None],
        "took": [timedelta(seconds=90), None, None],
    }
)


def open_(path: Path) -> RawFile:
    return reader_of(path)(path, path.name, ReadOptions())


def written(path: Path, how: str, frame: pl.DataFrame = FRAME) -> Path:
    getattr(frame, f"write_{how}")(path)
    return path


@pytest.mark.parametrize(
    ("name", "how"), [("a.parquet", "parquet"), ("a.arrow", "ipc"), ("a.arrow", "ipc_stream"), ("a.csv", "parquet")]
)
def test_typed_values_become_what_json_has(tmp_path: Path, name: str, how: str) -> None:
    file = open_(written(tmp_path / name, how))

    first, second, third = file.rows
    # SHA-256 of the bytes ff 00, by sha256sum
    assert first.fields == {
        "text": "one", "score": 0.5, "day": "2024-05-01", "moment": "2024-05-01T10:30:00", "price": "1.50",
        "turns": [{"role": "user", "content": "hi"}], "kind": "x", "image": "binary: 2 bytes, sha256 ea5dbf9596d187e9",
        "took": "90 s",
    }  # fmt: skip
    assert (second.fields["score"], third.fields["score"]) == (None, "inf")
    assert (second.fields["image"], second.fields["turns"]) == ("plain", [])
    assert [first.line, second.line, third.line] == [1, 2, 3]
    assert set(third.fields) == set(file.columns) == set(FRAME.columns)


@pytest.mark.parametrize("how", ["parquet", "ipc", "ipc_stream"])
def test_rows_keep_their_order_over_batches_and_row_groups(tmp_path: Path, how: str) -> None:
    frame = pl.DataFrame({"n": range(30_000)})
    path = tmp_path / "rows.arrow"
    if how == "parquet":
        frame.write_parquet(path, row_group_size=7_000)
    else:
        written(path, how, frame)
    assert [row.fields["n"] for row in open_(path).rows] == list(range(30_000))


def test_a_cut_stream_gives_the_batches_before_the_cut_and_one_row_with_the_reason(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (tuneloop[ray])")
    path = tmp_path / "cache.arrow"
    table = arrow.table({"n": list(range(10_000))})
    with arrow.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=1_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    rows = list(open_(path).rows)

    assert [row.fields["n"] for row in rows[:-1]] == list(range(len(rows) - 1))
    assert (len(rows) - 1) % 1_000 == 0
    assert 3_000 <= len(rows) < 5_000
    assert rows[-1].problem == ("read", "damaged arrow stream: it cannot be read from here on (it ends too early)")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PAR1" + bytes(40), "damaged parquet"),
        (b"ARROW1" + bytes(40), "damaged arrow"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "damaged arrow stream: it ends too early"),
        (b"FEA1" + bytes(40), "Feather of the old version 1"),
        (b"text,label\n", "neither Parquet nor Arrow"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(data)
    with pytest.raises(DataError, match=what) as error:
        open_(path)
    assert len(str(error.value).splitlines()) == 2


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        open_(written(tmp_path / "a.parquet", "parquet", FRAME.clear()))


def test_a_file_that_ends_its_decoder_ends_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", "parquet", pl.DataFrame({"text": ["x"] * 40}))
    data = path.read_bytes()
    # a page header says 40 values (thrift: 15 50); 15 4f says -40, and polars 2.1 asks for two exabytes
    damaged = data.replace(b",\x15\x50\x15", b",\x15\x4f\x15")
    assert damaged != data
    path.write_bytes(damaged)

    with pytest.raises(DataError, match="damaged parquet"):
        open_(path)
    assert len(list(open_(written(tmp_path / "b.parquet", "parquet")).rows)) == 3
