"""Packed files: unpacked as they are read, and honest about damage."""

from __future__ import annotations

import bz2
import gc
import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import zstandard

from tuneloop.data.readers import ReadOptions, is_readable, reader_of
from tuneloop.data.readers.unpack import FileBytes, packing
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "Zstandard": zstandard.ZstdCompressor().compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
SUFFIX = {"gzip": ".gz", "Zstandard": ".zst", "bzip2": ".bz2", "xz": ".xz"}


def noise(lines: int) -> bytes:
    """Lines that do not pack well, so that half an archive holds about half of them."""
    draw = random.Random(1)
    return b"".join(b'{"text": "%s", "n": %d}\n' % (draw.randbytes(30).hex().encode(), i) for i in range(lines))


def open_(path: Path) -> RawFile:
    return reader_of(path)(path, path.name, ReadOptions())


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_file_gives_the_bytes_that_were_packed(tmp_path: Path, kind: str) -> None:
    data = noise(20_000)
    path = tmp_path / f"rows.jsonl{SUFFIX[kind]}"
    path.write_bytes(PACK[kind](data))

    source = FileBytes(path)

    assert packing(path) == kind
    assert b"".join(source.pieces()) == data
    assert source.damage is None


@pytest.mark.parametrize("kind", PACK)
def test_archives_behind_one_another_are_one_text(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.jsonl.x"
    path.write_bytes(PACK[kind](b"one\n") + PACK[kind](b"two\n"))
    assert b"".join(FileBytes(path).pieces()) == b"one\ntwo\n"


def test_zeros_behind_an_archive_are_padding_and_anything_else_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    for behind, damaged in ((bytes(5000), False), (b"more", True)):
        path.write_bytes(gzip.compress(b"one\n") + behind)
        source = FileBytes(path)
        assert b"".join(source.pieces()) == b"one\n"
        assert (source.damage is not None) is damaged


@pytest.mark.parametrize("kind", PACK)
def test_a_cut_archive_gives_the_rows_before_the_cut_and_one_with_the_reason(tmp_path: Path, kind: str) -> None:
    data = noise(60_000)
    packed = PACK[kind](data)
    path = tmp_path / f"rows.jsonl{SUFFIX[kind]}"
    path.write_bytes(packed[: len(packed) // 2])

    rows = list(open_(path).rows)

    whole = data.decode().splitlines()
    assert len(rows) > 100
    assert [row.raw for row in rows[:-1]] == whole[: len(rows) - 1]
    assert all(row.problem is None for row in rows[:-1])
    assert rows[-1].problem == ("read", f"damaged archive: the {kind} file ends too early")
    assert whole[len(rows) - 1].startswith(rows[-1].raw)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".txt"])
def test_every_kind_of_text_says_that_its_archive_was_cut(tmp_path: Path, suffix: str) -> None:
    lines = noise(20_000).decode().splitlines()
    whole = {
        ".csv": "text\n" + "\n".join(line.replace(",", " ").replace('"', "") for line in lines),
        ".json": "[\n" + ",\n".join(lines) + "\n]",
        ".txt": "\n".join(lines),
    }[suffix]
    packed = gzip.compress(whole.encode())
    path = tmp_path / f"rows{suffix}.gz"
    path.write_bytes(packed[: len(packed) // 2])

    rows = list(open_(path).rows)

    assert [row.line for row in rows if row.problem] == [rows[-1].line]
    assert rows[-1].problem == ("read", "damaged archive: the gzip file ends too early")


def test_a_file_that_is_packed_without_saying_so_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(b'{"q": 1}\n'))
    assert [row.fields for row in open_(path).rows] == [{"q": 1}]


def test_an_archive_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": 1}\n')[:10])
    with pytest.raises(DataError, match="damaged archive: the gzip file ends too early"):
        open_(path)


def test_a_packed_parquet_file_is_read_from_a_copy_that_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    pl.DataFrame({"q": list(range(3000))}).write_parquet(tmp_path / "rows.parquet")
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress((tmp_path / "rows.parquet").read_bytes()))

    file = open_(path)

    assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert [row.fields["q"] for row in file.rows] == list(range(3000))
    assert not list((tmp_path / "tmp").iterdir())

    file = open_(path)
    del file
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())


def test_half_a_packed_parquet_file_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"q": list(range(3000))}).write_parquet(tmp_path / "rows.parquet")
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress((tmp_path / "rows.parquet").read_bytes())[:-100])
    with pytest.raises(DataError, match="ends too early"):
        open_(path)


def test_what_is_inside_decides_whether_a_folder_takes_a_packed_file() -> None:
    assert is_readable(Path("rows.jsonl.zst"))
    assert not is_readable(Path("program.exe.gz"))
    assert not is_readable(Path("backup.sqlite"))
