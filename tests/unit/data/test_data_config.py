"""The data section: short spellings, aliases, and errors that name the key and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuneloop.config import build, load
from tuneloop.data import DataConfig, SourceConfig, StepConfig
from tuneloop.data.config import DEFAULT_STEPS
from tuneloop.errors import ConfigError


def test_a_bare_path_is_a_source_and_is_relative_to_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("path: raw.csv\n", encoding="utf-8")
    loaded = load(DataConfig, tmp_path / "p.yaml")
    assert [s.path for s in loaded.value.sources] == [tmp_path / "raw.csv"]
    assert loaded.notes == ("path is read as sources",)


def test_sources_mix_paths_and_mappings() -> None:
    config = build(DataConfig, {"sources": ["a.csv", {"path": "b.csv", "split": "test", "rows": 10}]}).value
    assert config.sources == (SourceConfig(path="a.csv"), SourceConfig(path="b.csv", split="test", rows=10))


def test_words_of_other_tools_name_a_source() -> None:
    tree = {"sources": [{"sql": "select 1", "database_url": "sqlite:////shop.db"}, {"dataset": "o/n", "subset": "zh"}]}
    config = build(DataConfig, tree).value
    assert config.sources == (
        SourceConfig(url="sqlite:////shop.db", query="select 1"),
        SourceConfig(dataset="o/n", name="zh"),
    )


def test_a_relative_sqlite_url_is_relative_to_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("sources: [{url: 'sqlite:///shop.db', table: t}]\n", encoding="utf-8")
    assert load(DataConfig, tmp_path / "p.yaml").value.sources[0].url == f"sqlite:///{tmp_path}/shop.db"


def test_default_steps_in_order() -> None:
    assert tuple(s.name for s in DataConfig(sources="a.csv").steps) == DEFAULT_STEPS
    assert DEFAULT_STEPS == (
        "repair", "html", "whitespace", "empty", "truncated", "redact", "exact_duplicates", "near_duplicates",
    )  # fmt: skip


def test_steps_are_names_or_names_with_options() -> None:
    config = build(
        DataConfig, {"sources": "a.csv", "steps": ["empty", {"name": "near_duplicates", "options": {"threshold": 0.9}}]}
    )
    assert config.value.steps == (
        StepConfig(name="empty"),
        StepConfig(name="near_duplicates", options={"threshold": 0.9}),
    )


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        ({"sources": []}, "no source is named", "data: {path: my-rows.csv}"),
        ({"steps": ["near_dupes"]}, "unknown step 'near_dupes'", "did you mean 'near_duplicates'?"),
        (
            {"steps": [{"name": "near_duplicates", "options": {"treshold": 1}}]},
            "option 'treshold'",
            "its options are: threshold",
        ),
        (
            {"steps": [{"name": "near_duplicates", "options": {"threshold": 2}}]},
            "less than or equal to 1",
            "its options are",
        ),
        (
            {"steps": [{"name": "redact", "options": {"types": ["NAMES"]}}]},
            "not known",
            "its options are: types, regions",
        ),
        ({"train_ratio": 0.9}, "must add up to 1", "for example 0.7, 0.15 and 0.15"),
        ({"delimiter": ",,"}, "one character", '","'),
        ({"encoding": "utf-9"}, "unknown encoding 'utf-9'", "gb18030"),
        ({"sources": [{"path": "a", "rows": 0}]}, "at least 1", "leave rows out"),
        ({"sources": [{"pth": "a.csv"}]}, "unknown key 'sources.0.pth'", "did you mean 'path'?"),
        ({"sources": [{"path": "sqlite:///shop.db"}]}, "this is an address", "{url: ..., query: SELECT ...}"),
        ({"split": {"test": 0.1}}, "unknown key 'split'", "train_ratio, validation_ratio, test_ratio"),
        ({"sources": [{"split": "test"}]}, "none of path, url and dataset is given", "one entry of sources for each"),
        ({"sources": [{"path": "a", "dataset": "o/n"}]}, "path and dataset are given", "one entry of sources for each"),
        ({"sources": [{"path": "a.db", "table": "t", "query": "q"}]}, "table and query are given", "keep one"),
        ({"sources": [{"dataset": "o/n", "table": "t"}]}, "no table or query", "name, part and revision"),
        ({"sources": ["sqlite:///shop.db"]}, "needs table or query", "query: SELECT"),
        ({"sources": [{"path": "a", "revision": "main"}]}, "revision is for a data set", "dataset: owner/name"),
        ({"sources": [{"url": "mysql://u:hunter2@h/d", "table": "t"}]}, "a password stands in", "${DB_PASSWORD}"),
    ],
)
def test_mistakes_are_two_lines(change: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(DataConfig, {"sources": "a.csv", **change})
    first, second = str(error.value).splitlines()
    assert what in first
    assert hint in second
    assert "hunter2" not in str(error.value)


def test_configuration_survives_its_own_yaml() -> None:
    url = "postgresql://u:${PG}@h/d"
    sources = ("a.csv", SourceConfig(url=url, table="t"), SourceConfig(dataset="o/n", part="test"))
    config = DataConfig(sources=sources, system="Pick one: {labels}")
    import yaml

    assert build(DataConfig, yaml.safe_load(config.to_yaml())).value == config
