"""Which files a configuration means."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tuneloop.data import DataConfig, SourceConfig, input_hashes
from tuneloop.data.sources import files, read
from tuneloop.errors import DataError
from tuneloop.rundir import Run


def write(path: Path, content: str = "text,label\na,b\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    (
        write(tmp_path / "a.csv"),
        write(tmp_path / "in/b.csv"),
        write(tmp_path / "in/c.jsonl"),
        write(tmp_path / "in/d.exe"),
    )
    names = [f.name for f in files(DataConfig(sources=(tmp_path / "a.csv", tmp_path / "in")))]
    assert names == ["a.csv", "b.csv", "c.jsonl"]
    assert [f.name for f in files(DataConfig(sources=tmp_path / "*.csv"))] == ["a.csv"]


def test_runs_that_lie_in_the_folder_are_not_raw_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.csv")
    write(tmp_path / "else" / "manifest.json", '{"tuneloop": "of another program"}')
    config, run = DataConfig(sources=tmp_path), Run(tmp_path / "runs" / "mine")
    with run.lock():
        run.stage("data", config, {}, lambda out: out.write_text("train.jsonl", "{}"), lambda out: out / "train.jsonl")
    write(run.root / "notes.jsonl")
    assert [f.name for f in files(config)] == ["a.csv", "manifest.json"]
    assert "runs of Tuneloop inside are not read" in capsys.readouterr().err
    named = files(DataConfig(sources=run.root / "data" / "train.jsonl"))
    assert [f.name for f in named] == ["train.jsonl"]


def test_equal_names_get_as_many_folders_as_tell_them_apart(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one/rows.csv"), write(tmp_path / "two/rows.csv")
    assert [f.name for f in files(DataConfig(sources=(one, two)))] == ["one/rows.csv", "two/rows.csv"]


def test_missing_file_names_the_likely_one(tmp_path: Path) -> None:
    write(tmp_path / "customers.csv")
    with pytest.raises(DataError) as error:
        input_hashes(DataConfig(sources=tmp_path / "custmers.csv"))
    assert str(error.value).splitlines() == [
        f"{tmp_path}/custmers.csv: no such file",
        f"hint: did you mean {tmp_path}/customers.csv?",
    ]


def test_empty_folder_and_pattern_without_match_are_refused(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "*.csv"):
        with pytest.raises(DataError):
            files(DataConfig(sources=source))


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    with pytest.raises(DataError, match="named twice"):
        files(DataConfig(sources=(path, tmp_path)))


def test_input_hashes_are_of_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\nx,y\n")
    assert input_hashes(DataConfig(sources=path)) == {"a.csv": hashlib.sha256(b"text,label\nx,y\n").hexdigest()}


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", "text,label\n{,[\n", ("text", "label")),
        ("a.tsv", "text\tlabel\nx\ty\n", ("text", "label")),
        ("a.jsonl", '{"q": 1}\n', ("q",)),
        ("a.json", '{"q": 1}\n{"q": 2}\n', ("q",)),
        ("a.json", '[{"q": 1}]', ("q",)),
        ("a.json", '{"q": 1}', ("q",)),
        ("a.txt", "hello\n", ("text",)),
        ("a.dat", '{"q": 1}\n{"q": 2}\n', ("q",)),
        ("a.dat", "text;label\nx;y\n", ("text", "label")),
    ],
)
def test_reader_is_chosen_by_content_and_suffix(
    tmp_path: Path, name: str, content: str, columns: tuple[str, ...]
) -> None:
    config = DataConfig(sources=write(tmp_path / name, content))
    assert read(config, files(config)[0]).columns == columns


def test_packed_files_and_typed_ones_are_taken_from_a_folder_and_databases_are_not(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.parquet", "c.xlsx", "d.sqlite", "e.exe.gz"):
        write(tmp_path / name)
    assert [f.name for f in files(DataConfig(sources=tmp_path))] == ["a.jsonl.gz", "b.parquet", "c.xlsx"]


def test_tables_and_queries_are_named_after_their_database(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.sqlite")
    url = "postgresql://reader:${PG}@db.example:5432/shop"
    sources = (
        SourceConfig(path=path, table="orders"),
        SourceConfig(url=url, table="orders"),
        SourceConfig(url=url, query="select 1"),
        SourceConfig(url=url.replace("db.", "db2."), table="orders"),
    )
    # the first eight digits of the SHA-256 of "select 1", by sha256sum
    assert [f.name for f in files(DataConfig(sources=sources))] == [
        "shop.sqlite/orders",
        "db.example-5432/shop/orders",
        "shop/query-822ae07d",
        "db2.example-5432/shop/orders",
    ]


def test_two_tables_of_one_file_are_two_sources_and_the_same_one_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.sqlite")
    tables = [SourceConfig(path=path, table=table) for table in ("a", "b", "a")]
    assert len(files(DataConfig(sources=tuple(tables[:2])))) == 2
    with pytest.raises(DataError, match="named twice"):
        files(DataConfig(sources=tuple(tables)))


def test_a_table_of_something_that_has_none_is_refused(tmp_path: Path) -> None:
    config = DataConfig(sources=(SourceConfig(path=write(tmp_path / "a.csv"), table="orders"),))
    with pytest.raises(DataError, match="table and query are for databases"):
        read(config, files(config)[0])
