"""Data sets of a hub, with the hub played by a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneloop.data import DataConfig, SourceConfig, hub
from tuneloop.data.sources import files, read
from tuneloop.errors import DataError

client = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (tuneloop[hub])")


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TUNELOOP_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    hub._fetched.cache_clear()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    for file in (
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
        "data/test-00000-of-00001.jsonl",
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps({"text": file, "label": "x"}) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Rows\n", encoding="utf-8")
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, published: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """A hub that has ``owner/rows``; records what was downloaded."""
    calls: list[dict[str, Any]] = []

    class Api:
        def dataset_info(self, dataset: str, revision: str | None) -> Any:
            names = [p.relative_to(published).as_posix() for p in published.rglob("*") if p.is_file()]
            return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=name) for name in names])

    def snapshot_download(allow_patterns: list[str], **options: Any) -> str:
        calls.append({"allow_patterns": allow_patterns, **options})
        for name in allow_patterns:
            (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(published / name, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(client, "HfApi", Api)
    monkeypatch.setattr(client, "snapshot_download", snapshot_download)
    monkeypatch.setattr(client, "hf_hub_download", lambda filename, **_: str(published / filename))
    return calls


def test_only_the_files_of_the_part_are_fetched_at_the_commit_that_was_listed(asked: list[dict[str, Any]]) -> None:
    config = DataConfig(sources=(SourceConfig(dataset="owner/rows", part="test"),))
    (file,) = files(config)
    assert asked == [
        {"repo_id": "owner/rows", "repo_type": "dataset", "revision": "c0ffee",
         "allow_patterns": ["data/test-00000-of-00001.jsonl"]}
    ]  # fmt: skip
    assert file.name == "test-00000-of-00001.jsonl"
    assert [row.fields["label"] for row in read(config, file).rows] == ["x"]


def test_hashing_and_reading_fetch_once(asked: list[dict[str, Any]]) -> None:
    config = DataConfig(sources=(SourceConfig(dataset="owner/rows"),))
    assert [file.name for file in files(config)] == [file.name for file in files(config)]
    assert len(asked) == 1


def test_a_folder_with_a_copy_needs_no_hub(published: Path) -> None:
    config = DataConfig(sources=(SourceConfig(dataset=str(published)),))
    assert [file.name for file in files(config)] == ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]


def test_offline_without_a_copy_says_what_to_bring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError) as error:
        files(DataConfig(sources=(SourceConfig(dataset="owner/rows"),)))
    assert str(error.value).splitlines() == [
        "the data set 'owner/rows' is not on this machine, and fetching is switched off",
        "hint: on a connected machine: hf download --repo-type dataset owner/rows --local-dir FOLDER; copy it here; "
        "dataset: FOLDER",
    ]


def test_offline_with_a_copy_in_the_cache_uses_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    root = tmp_path / "hf" / "datasets--owner--rows"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("c0ffee")
    shutil.copytree(published, root / "snapshots" / "c0ffee")
    folder, chosen = hub.fetch("owner/rows", hub="huggingface", name=None, revision=None, part="test")
    assert [str(folder / file) for file in chosen] == [
        str(root / "snapshots" / "c0ffee" / "data/test-00000-of-00001.jsonl")
    ]


def test_an_unreachable_hub_is_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def dataset_info(self, *_: Any, **__: Any) -> Any:
            raise OSError("connection refused\nwith details")

    monkeypatch.setattr(client, "HfApi", Api)
    with pytest.raises(DataError, match="did not give it: connection refused") as error:
        files(DataConfig(sources=(SourceConfig(dataset="owner/rows"),)))
    assert len(str(error.value).splitlines()) == 2


def test_modelscope_is_asked_when_it_is_named(monkeypatch: pytest.MonkeyPatch, published: Path) -> None:
    calls = []

    def snapshot_download(dataset: str, **options: Any) -> str:
        calls.append((dataset, options))
        return str(published)

    fake = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(__import__("sys").modules, "modelscope", fake)
    found = files(DataConfig(sources=(SourceConfig(dataset="owner/rows", hub="modelscope", part="test"),)))
    assert [file.name for file in found] == ["test-00000-of-00001.jsonl"]
    assert calls == [("owner/rows", {"local_files_only": False, "repo_type": "dataset"})]


CARD = {
    "configs": [
        {"config_name": "zh", "data_files": [{"split": "train", "path": "zh/*.jsonl"}, {"split": "test", "path": ["t/zh.csv"]}]},
        {"config_name": "en", "data_dir": "en", "data_files": "**/*.parquet"},
    ]
}  # fmt: skip
CARD_FILES = ["zh/b.jsonl", "zh/a.jsonl", "t/zh.csv", "en/x/1.parquet", "en/2.parquet", "README.md", "script.py"]


@pytest.mark.parametrize(
    ("name", "part", "chosen"),
    [
        ("zh", "train", ["zh/a.jsonl", "zh/b.jsonl"]),
        ("zh", "test", ["t/zh.csv"]),
        ("en", "train", ["en/2.parquet", "en/x/1.parquet"]),
    ],
)
def test_the_card_says_which_files_make_a_part(name: str, part: str, chosen: list[str]) -> None:
    assert hub.choose(CARD_FILES, CARD, "o/n", name, part) == chosen


@pytest.mark.parametrize(
    ("listed", "part", "chosen"),
    [
        (["train.csv", "dev.csv", "test.csv"], "validation", ["dev.csv"]),
        (["train.csv", "dev.csv"], "dev", ["dev.csv"]),
        (["rows.jsonl", "LICENSE", ".gitattributes"], "train", ["rows.jsonl"]),
        (["data/train/a.parquet", "data/test/a.parquet"], "train", ["data/train/a.parquet"]),
        (["train/trainer_notes.csv", "test/x.csv"], "train", ["train/trainer_notes.csv"]),
    ],
)
def test_without_a_card_names_say_which_files_make_a_part(listed: list[str], part: str, chosen: list[str]) -> None:
    assert hub.choose(listed, {}, "o/n", None, part) == chosen


@pytest.mark.parametrize(
    ("listed", "card", "name", "part", "what", "hint"),
    [
        (CARD_FILES, CARD, None, "train", "has 2 configurations", "choose one with name: zh, en"),
        (CARD_FILES, CARD, "fr", "train", "no configuration 'fr'", "it has zh, en"),
        (["train.csv", "test.csv"], {}, None, "validation", "no part 'validation'", "it has test, train"),
        (["loader.py"], {}, None, "train", "no file that can be read", "refs/convert/parquet"),
        (["main/train.csv", "extra/train.csv"], {}, None, "train", "has 2 configurations", "name: extra, main"),
    ],
)
def test_a_choice_that_is_missing_or_wrong_lists_what_there_is(
    listed: list[str], card: dict[str, Any], name: str | None, part: str, what: str, hint: str
) -> None:
    with pytest.raises(DataError, match=what) as error:
        hub.choose(listed, card, "o/n", name, part)
    assert hint in (error.value.hint or "")


def test_what_is_neither_a_name_nor_a_folder_is_refused() -> None:
    with pytest.raises(DataError, match="no such data set"):
        files(DataConfig(sources=(SourceConfig(dataset="./nowhere"),)))
