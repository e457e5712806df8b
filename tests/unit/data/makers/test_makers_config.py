"""Makers in a project file: short spellings, paths, and errors that name the key and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuneloop.config import load
from tuneloop.data import DataConfig
from tuneloop.data.config import MakerConfig
from tuneloop.errors import ConfigError


def project(tmp_path: Path, makers: str) -> DataConfig:
    (tmp_path / "p.yaml").write_text(f"path: raw.csv\nmakers:\n{makers}", encoding="utf-8")
    return load(DataConfig, tmp_path / "p.yaml").value


def test_nothing_is_made_unless_asked_for() -> None:
    assert DataConfig(sources="a.csv").makers == ()


def test_makers_are_names_or_names_with_options(tmp_path: Path) -> None:
    found = project(tmp_path, "  - typos\n  - {name: balance, options: {target: max}}\n")
    assert found.makers == (MakerConfig(name="typos"), MakerConfig(name="balance", options={"target": "max"}))


def test_paths_in_options_are_relative_to_the_yaml_file(tmp_path: Path) -> None:
    found = project(tmp_path, "  - {name: synonyms, options: {word_list: cilin.txt}}\n")
    assert found.makers[0].options == {"word_list": str(tmp_path / "cilin.txt")}


def test_a_saved_configuration_is_read_back_the_same(tmp_path: Path) -> None:
    endpoint = {"url": "http://127.0.0.1:8000/v1/chat/completions", "model": "m"}
    first = DataConfig(
        sources="a.csv",
        makers=[
            {"name": "synthesise", "options": {"rows": {"a": 3}, "endpoint": endpoint}},
            {"name": "templates", "options": {"slots": {"city": ["Oslo"]}}},
        ],
    )
    (tmp_path / "saved.yaml").write_text(first.to_yaml(), encoding="utf-8")
    assert load(DataConfig, tmp_path / "saved.yaml").value.makers == first.makers


@pytest.mark.parametrize(
    ("makers", "what", "hint"),
    [
        ("  - typo\n", "unknown maker 'typo'", "did you mean 'typos'?"),
        ("  - {name: typos, options: {rat: 1}}\n", "option 'rat'", "its options are: rate, character_rate"),
        ("  - {name: typos, options: {rate: 2}}\n", "less than or equal to 1", "its options are"),
        (
            "  - {name: synthesise, options: {endpoint: {url: x, model: m}}}\n",
            "option 'endpoint.url'",
            "for example https",
        ),
        ("  - synonyms\n", "no source of synonyms", "wordnet: /usr/share/wordnet"),
    ],
)
def test_errors_name_line_and_way_out(tmp_path: Path, makers: str, what: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=what) as found:
        project(tmp_path, makers)
    assert found.value.where == f"{tmp_path / 'p.yaml'}:3"
    assert hint in str(found.value.hint)


def test_a_key_does_not_belong_into_a_project_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {"endpoint": {"url": "http://x.example/v1", "model": "m", "key": "sk-1"}}
    with pytest.raises(ValueError, match=r"option 'endpoint\.key'"):
        MakerConfig(name="synthesise", options=options)
