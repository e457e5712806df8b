"""Whatever the bytes: rows or a two-line error; every physical row once; memory that does not grow with the file."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneloop.data.documents import AUDIO_SUFFIXES
from tuneloop.data.readers import BY_SUFFIX, ReadOptions, reader_of
from tuneloop.data.rows import RawRow
from tuneloop.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ROWS = [{"text": f"{i} 我的银行卡还没有收到 " + "word " * (i % 5), "label": f"c{i % 3}"} for i in range(40)]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def sqlite_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sqlite"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("create table rows (text, label)")
            connection.executemany("insert into rows values (:text, :label)", ROWS)
        return path.read_bytes()


def workbook_bytes() -> bytes:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (tuneloop[office])")
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    book.active.append(["text", "label"])
    for row in ROWS:
        book.active.append(list(row.values()))
    book.save(buffer)
    return buffer.getvalue()


def frame_bytes(how: str) -> bytes:
    buffer = io.BytesIO()
    getattr(pl.DataFrame(ROWS), f"write_{how}")(buffer)
    return buffer.getvalue()


def jsonl() -> bytes:
    return "\n".join(LINES).encode()


SAMPLES: dict[str, Callable[[], bytes]] = {
    "rows.csv": lambda: ("text,label\n" + "\n".join(f'"{r["text"]}",{r["label"]}' for r in ROWS)).encode(),
    "rows.jsonl": jsonl,
    "rows.json": lambda: json.dumps(ROWS, ensure_ascii=False).encode(),
    "object.json": lambda: json.dumps({"n": 1, "data": ROWS}, indent=1).encode(),
    "rows.txt": lambda: "\n".join(LINES).encode("gb18030"),
    "rows.jsonl.gz": lambda: gzip.compress(jsonl()),
    "rows.jsonl.zst": lambda: zstandard.ZstdCompressor().compress(jsonl()),
    "rows.jsonl.bz2": lambda: bz2.compress(jsonl()),
    "rows.jsonl.xz": lambda: lzma.compress(jsonl()),
    "rows.parquet": lambda: frame_bytes("parquet"),
    "rows.arrow": lambda: frame_bytes("ipc"),
    "rows.arrows": lambda: frame_bytes("ipc_stream"),
    "rows.xlsx": workbook_bytes,
    "rows.sqlite": sqlite_bytes,
}


@cache
def sample(name: str) -> bytes:
    return SAMPLES[name]()


def rows_of(name: str, data: bytes) -> list[RawRow] | DataError:
    """The rows of a file with these bytes, or the error; any other exception fails the test."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            file = reader_of(path)(path, name, ReadOptions(table="rows" if name.endswith(".sqlite") else None))
            return list(file.rows)
        except DataError as error:
            return error


@pytest.mark.parametrize("name", SAMPLES)
def test_an_undamaged_file_gives_every_row(name: str) -> None:
    rows = rows_of(name, sample(name))
    assert isinstance(rows, list)
    assert not [row for row in rows if row.problem]
    if name == "rows.txt":
        assert [row.raw for row in rows] == LINES
    else:
        assert [dict(row.fields) for row in rows] == ROWS


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_bytes_give_rows_or_a_two_line_error(name: str) -> None:
    cut = st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8))

    @FUZZ
    @given(st.lists(cut, min_size=1, max_size=4), st.floats(0.3, 1) | st.just(1.0))
    def check(cuts: list[tuple[float, int, bytes]], kept: float) -> None:
        data = sample(name)
        data = data[: int(kept * len(data))]
        for place, length, insert in cuts:
            at = int(place * len(data))
            data = data[:at] + insert + data[at + length :]
        rows = rows_of(name, data)
        if isinstance(rows, DataError):
            assert len(str(rows).splitlines()) == 2, str(rows)
            return
        assert len({row.origin(name) for row in rows}) == len(rows)
        assert all(row.problem is None or not row.fields for row in rows)

    check()


@pytest.mark.parametrize(
    "suffix", sorted({*BY_SUFFIX, ".gz", ".zst", ".bin"} - set(AUDIO_SUFFIXES))
)  # these need a model
def test_any_bytes_under_any_suffix_give_rows_or_a_two_line_error(suffix: str) -> None:
    @settings(FUZZ, max_examples=40)
    @given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore")))
    def check(data: bytes) -> None:
        rows = rows_of(f"rows{suffix}", data)
        assert isinstance(rows, list) or len(str(rows).splitlines()) == 2

    check()


REAL = {
    "docs/test_mskanji.csv": 3,
    "docs/test.xlsx": 27,
    "corpus/c4_en_demo.jsonl": 300,
    "preference/dpo_en_demo.json": 300,
    "preference/dpo_zh_demo.json": 300,
    "preference/kto_en_demo.json": 300,
    "pii/presidio_synth_dev.json": 750,
    "safety/cold_zh_train_10000.csv": 10_000,
    "finance_zh/disc_task.json": 100,
}
"""Rows as the README of the shared data counts them (of the documents: as a spreadsheet program shows them)."""


@pytest.mark.parametrize("name", REAL)
def test_every_row_of_a_real_file_is_read(name: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not on this machine")
    file = reader_of(path)(path, path.name, ReadOptions())
    rows = list(file.rows)
    assert len(rows) == REAL[name]
    assert sum(row.problem is not None for row in rows) <= 0.005 * len(rows)


READ = """
import sys
from pathlib import Path
from tuneloop.data.readers import ReadOptions, reader_of
path = Path(sys.argv[1])
count = sum(1 for _ in reader_of(path)(path, path.name, ReadOptions()).rows)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(count, int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json", "rows.txt", "rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_file_of_300_mb_is_read_in_less_than_100_mb(tmp_path: Path, name: str) -> None:
    line = json.dumps({"text": "why was my card charged twice 为什么 " * 8, "label": "card"}, ensure_ascii=False)
    count = 300_000_000 // len(line.encode())
    opened = {"gz": gzip.open, "zst": zstandard.open}.get(name.rpartition(".")[2], open)
    kind = name.split(".")[1]
    if kind == "csv":
        line = line.replace('"', "").replace(",", ";") + ",x"
    with opened(tmp_path / name, "wb") as file:
        file.write({"json": b"[", "csv": b"text,label\n"}.get(kind, b""))
        for start in range(0, count, 1_000):
            end = ",\n" if kind == "json" else "\n"
            block = (line + end) * min(1_000, count - start)
            file.write((block.removesuffix(",\n") if kind == "json" and start + 1_000 >= count else block).encode())
        file.write(b"]" if kind == "json" else b"")

    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name)],
        capture_output=True,
        text=True,
        env={**os.environ},
        check=True,
    )

    rows, peak_mib = map(int, done.stdout.split())
    assert rows == count
    assert peak_mib < 100
