"""Configuration: what is read, and how a mistake is explained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from tuneloop.config import Config, ConfigPath, build, dotted_fields, load
from tuneloop.errors import ConfigError


class Adapter(Config):
    rank: int = Field(16, ge=1)
    """Rank of each adapter."""


class Section(Config):
    aliases: ClassVar[Mapping[str, str]] = {"lr": "learning_rate", "lora_rank": "adapter.rank"}

    learning_rate: float = 1e-4
    """Peak learning rate."""

    answer: str = "yes"
    """Any text."""

    adapter: Adapter = Adapter()
    """The adapter."""


class Source(Config):
    path: ConfigPath
    """A file."""


class Project(Config):
    name: str
    """Name of the run."""

    train: Section = Section()
    """Training."""

    sources: tuple[Source, ...] = ()
    """Files."""

    arms: dict[str, Section] = {}
    """Variants."""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error(path: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(Project, path, overrides)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-5", 2e-5), ("2E-5", 2e-5), ("1e6", 1e6), (".5", 0.5), ("5.", 5.0), ("3", 3.0), ("-2.5e+3", -2500.0)],
)
def test_numbers_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    assert (
        load(Project, write(tmp_path, f"name: a\ntrain: {{learning_rate: {text}}}")).value.train.learning_rate == value
    )


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "No", "1.2.3", "e5", "12e"])
def test_words_stay_words(tmp_path: Path, word: str) -> None:
    assert load(Project, write(tmp_path, f"name: a\ntrain: {{answer: {word}}}")).value.train.answer == word


def test_unknown_key_names_line_and_likely_meaning(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ntrain:\n  learning_rat: 1e-3\n")
    found = error(path)
    assert str(found) == f"{path}:3: unknown key 'train.learning_rat'\nhint: did you mean 'learning_rate'?"


def test_unknown_key_that_belongs_elsewhere(tmp_path: Path) -> None:
    assert error(write(tmp_path, "name: a\nlearning_rate: 1e-3\n")).hint == "it belongs at 'train.learning_rate'"
    assert error(write(tmp_path, "name: a\nlora_rank: 8\n")).hint == "it belongs at 'train.adapter.rank'"


def test_unknown_key_like_nothing_lists_what_is_known(tmp_path: Path) -> None:
    assert "name, train, sources, arms" in str(error(write(tmp_path, "name: a\nzzzz: 1\n")).hint)


def test_unknown_keys_are_counted(tmp_path: Path) -> None:
    assert "(and 1 more)" in error(write(tmp_path, "name: a\nzzzz: 1\nyyyy: 2\n")).what


def test_duplicate_key(tmp_path: Path) -> None:
    found = error(write(tmp_path, "name: a\ntrain:\n  answer: x\n  answer: y\n"))
    assert found.where is not None
    assert found.where.endswith("p.yaml:4")
    assert "'answer' stands twice (first in line 3)" in found.what


def test_missing_key(tmp_path: Path) -> None:
    assert "'name' is required" in error(write(tmp_path, "train: {}\n")).what


def test_wrong_kind_of_value(tmp_path: Path) -> None:
    found = error(write(tmp_path, "name: a\ntrain:\n  learning_rate: fast\n"))
    assert "train.learning_rate" in found.what
    assert "got 'fast'" in found.what
    assert found.where is not None
    assert found.where.endswith(":3")
    assert found.hint == "Peak learning rate."


def test_out_of_range_in_a_nested_section(tmp_path: Path) -> None:
    found = error(write(tmp_path, "name: a\ntrain:\n  adapter:\n    rank: 0\n"))
    assert "train.adapter.rank" in found.what
    assert str(found.where).endswith(":4")


def test_section_that_is_not_a_mapping(tmp_path: Path) -> None:
    assert error(write(tmp_path, "name: a\ntrain: 3\n")).what.startswith("train: ")
    assert "mapping" in error(write(tmp_path, "- a\n- b\n")).what
    assert "'name' is required" in error(write(tmp_path, "")).what


def test_aliases_are_reported(tmp_path: Path) -> None:
    loaded = load(Project, write(tmp_path, "name: a\ntrain: {lr: 2e-5, lora_rank: 4}\n"))
    assert (loaded.value.train.learning_rate, loaded.value.train.adapter.rank) == (2e-5, 4)
    assert loaded.notes == ("train.lr is read as train.learning_rate", "train.lora_rank is read as train.adapter.rank")


def test_aliases_work_inside_a_mapping_of_sections(tmp_path: Path) -> None:
    assert load(Project, write(tmp_path, "name: a\narms: {x: {lr: 1}}\n")).value.arms["x"].learning_rate == 1


def test_alias_and_canonical_name_together(tmp_path: Path) -> None:
    found = error(write(tmp_path, "name: a\ntrain: {lr: 1, learning_rate: 2}\n"))
    assert found.what == "train.lr and train.learning_rate say the same thing twice"


def test_error_under_an_alias_uses_the_written_word(tmp_path: Path) -> None:
    found = error(write(tmp_path, "name: a\ntrain:\n  answer: x\n  lr: fast\n"))
    assert found.what.startswith("train.lr: ")
    assert str(found.where).endswith(":4")


def test_overrides_win_and_create_sections(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ntrain: {learning_rate: 1}\n")
    value = load(Project, path, ["train.learning_rate=2e-5", "train.adapter.rank=2", "name=b", "train.answer="]).value
    assert (value.train.learning_rate, value.train.adapter.rank, value.name, value.train.answer) == (2e-5, 2, "b", "")


def test_override_of_a_list_item(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nsources: [{path: x}, {path: y}]\n")
    value = load(Project, path, ["sources.1.path=/z"]).value
    assert [s.path for s in value.sources] == [tmp_path / "x", Path("/z")]
    for index in ("2", "-1", "first"):
        assert "not an index of a list of 2" in error(path, f"sources.{index}.path=z").what


def test_override_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert load(Project, write(tmp_path, "name: a\n"), ["train.answer='a=b'"]).value.train.answer == "a=b"


@pytest.mark.parametrize("item", ["train.answer", "=3", "  =3"])
def test_not_an_override(tmp_path: Path, item: str) -> None:
    found = error(write(tmp_path, "name: a\n"), item)
    assert "is not an override" in found.what
    assert "section.key=value" in str(found.hint)


def test_broken_value_of_an_override(tmp_path: Path) -> None:
    assert str(error(write(tmp_path, "name: a\n"), "train.answer=[1").where).startswith("override train.answer=[1")


def test_error_in_an_override_is_placed_there(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ntrain:\n  learning_rate: 1\n")
    assert error(path, "train.learning_rate=fast").where == "override train.learning_rate=fast"
    assert error(path, "train.learning_rat=1").where == "override train.learning_rat=1"
    assert error(path, "train.lr=fast").what == "train.lr and train.learning_rate say the same thing twice"


def test_missing_file_suggests_the_near_one(tmp_path: Path) -> None:
    (tmp_path / "tuneloop.yaml").write_text("name: a\n")
    with pytest.raises(ConfigError) as caught:
        load(Project, tmp_path / "tuneloop.yml")
    assert caught.value.hint == f"did you mean {tmp_path / 'tuneloop.yaml'}?"
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(Project, tmp_path / "else" / "q.yaml")
    assert "tuneloop init" in str(caught.value.hint)


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert "cannot be read" in error(tmp_path).what


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes("name: naïve\n".encode("latin-1"))
    found = error(path)
    assert "cannot be read" in found.what
    assert found.hint == "save it as UTF-8 text"
    assert len(str(found).splitlines()) == 2


def test_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\n")
    assert load(Project, path).value.name == "a"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\ntrain: [1, 2\n", None),
        ("name: 'a\n", None),
        ("name: a\n  train: b\n", 2),
        ("name: a\n\ttrain: b\n", 2),
    ],
)
def test_broken_yaml_names_the_line(tmp_path: Path, text: str, line: int | None) -> None:
    found = error(write(tmp_path, text))
    assert "not valid YAML" in found.what
    assert str(found.where).partition("p.yaml:")[2].isdigit()
    assert line is None or str(found.where).endswith(f":{line}")
    assert len(str(found).splitlines()) == 2


@pytest.mark.parametrize("text", ["name: a\x00b\n", "name: &a {x: *b}\n", "name: !!python/object:os.system x\n"])
def test_hostile_yaml_is_two_lines(tmp_path: Path, text: str) -> None:
    assert len(str(error(write(tmp_path, text))).splitlines()) == 2


def test_relative_paths_are_meant_from_the_file(tmp_path: Path) -> None:
    value = load(Project, write(tmp_path, "name: a\nsources: [{path: rows.csv}]\n")).value
    assert value.sources[0].path == tmp_path / "rows.csv"


def test_a_configuration_is_frozen_and_hashes_by_content() -> None:
    one, two = build(Project, {"name": "a"}).value, build(Project, {"name": "a"}, ["name=b"]).value
    with pytest.raises(ValidationError):
        one.name = "c"  # type: ignore[misc]
    assert one.hash() == Project(name="a").hash() != two.hash()


def test_yaml_round_trip(tmp_path: Path) -> None:
    one = build(Project, {"name": "名", "train": {"answer": "no", "learning_rate": 2e-5}}).value
    assert load(Project, write(tmp_path, one.to_yaml())).value == one


def test_dotted_fields() -> None:
    assert "train.adapter.rank" in dotted_fields(Project)
