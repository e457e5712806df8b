"""Every registered maker keeps the contract of the seam."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest

from tuneloop.data import makers as seam
from tuneloop.data import registry
from tuneloop.data.config import MakerConfig
from tuneloop.data.frame import SCHEMA, make_frame
from tuneloop.data.makers import BUILT_IN, Around, Maker, MakerBase, create, names, run
from tuneloop.errors import ConfigError
from tuneloop.types import record_id

N = 60
COLOURS = ("crimson", "yellow", "purple", "orange", "silver", "golden", "violet")


def frame() -> pl.DataFrame:
    """Classified rows in two languages and two sizes of class, pairs with entities and reasoning, plain text."""
    columns: dict[str, list[Any]] = {key: [] for key in ("id", "messages", "label", "source", "fields", "group")}
    for k in range(N):
        user = {
            "role": "user",
            "content": f"The {COLOURS[k % 7]} card that was ordered from Berlin in week {k} is gone",
        }
        answer = {"role": "assistant", "content": f"Answer {k} about Berlin.", "reasoning": "Berlin, then."}
        chinese = {"role": "user", "content": f"我的银行卡第{k}次丢失了，请问应该怎样处理这个问题"}
        entities = json.dumps({"entities": [{"type": "city", "value": "Berlin"}]})
        kind = k % 4
        columns["id"].append(record_id(str(k), "rows"))
        columns["messages"].append(
            [[user], [chinese], [{"role": "system", "content": "S"}, user, answer], [answer]][kind]
        )
        columns["label"].append([("small" if k % 3 else "large"), "large", None, None][kind])
        columns["fields"].append(entities if kind == 2 else None)
        columns["source"].append(k % 2)
        columns["group"].append(f"g{k % 5}" if k % 5 else None)
    return make_frame(columns)


@pytest.fixture
def options(tmp_path: Path) -> Mapping[str, Mapping[str, Any]]:
    words = tmp_path / "words.txt"
    words.write_text("处理\t办理\ncard\tbank card\n", encoding="utf-8")
    return {
        "balance": {"target": "max"},
        "synonyms": {"word_list": str(words)},
        "templates": {"patterns": ["Please: {text}"], "slots": {"city": ["Berlin", "Paris"]}},
        "back_translation": {"rate": 0.5},
        "synthesise": {"rows": 3, "min_characters": 4},
    }


def ask(conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
    """Answers that depend on the question only: a translation with the words rearranged, or new rows as JSON."""
    out = []
    for conversation in conversations:
        text = conversation[-1]["content"]
        seen = record_id(text, "")
        if "JSON" in text:
            kind = "prompt" if '"prompt"' in text else "text"
            new = [{kind: f"{seen[i : i + 8]} {i}", "response": "yes"} for i in range(4)]
            out.append(json.dumps([row if kind == "prompt" else {"text": row["text"]} for row in new]))
        else:
            source = text.rsplit("\n\n", 1)[-1]
            out.append(" ".join([*source.split()[2:], *source.split()[:2], "indeed"]))
    return out


def around(tmp_path: Path, **more: Any) -> Around:
    sizes = dict(frame()["label"].drop_nulls().value_counts().iter_rows())
    return Around(seed=7, labels=sizes, cache=tmp_path / "cache", ask=ask, asked="parrot", **more)


@pytest.fixture(params=sorted(BUILT_IN))
def config(request: pytest.FixtureRequest, options: Mapping[str, Mapping[str, Any]]) -> MakerConfig:
    return MakerConfig(name=request.param, options=options.get(request.param, {}))


def made(config: MakerConfig, parts: Sequence[pl.DataFrame], tmp_path: Path, **more: Any) -> pl.DataFrame:
    found = list(run([config], parts, around(tmp_path, **more)))
    assert found, "the maker made nothing of rows that it can use"
    return pl.concat(found)


def test_it_is_a_maker(config: MakerConfig) -> None:
    maker = create(config.name, config.options)
    assert isinstance(maker, Maker)
    assert maker.name == config.name


def test_new_rows_have_the_columns_of_a_frame(config: MakerConfig, tmp_path: Path) -> None:
    assert dict(made(config, [frame()], tmp_path).schema) == dict(SCHEMA)


def test_new_rows_name_their_parents_and_number_themselves(config: MakerConfig, tmp_path: Path) -> None:
    new = made(config, [frame()], tmp_path)
    assert set(new["parents"].explode()) <= set(frame()["id"])
    assert new["origin"].to_list() == [f"{config.name}:{n}" for n in range(1, new.height + 1)]
    assert new["id"].to_list() == [record_id(*row) for row in new.select("raw", "origin").iter_rows()]


def test_new_rows_keep_class_and_source_of_their_first_parent(config: MakerConfig, tmp_path: Path) -> None:
    parents = {row["id"]: row for row in frame().iter_rows(named=True)}
    for row in made(config, [frame()], tmp_path).iter_rows(named=True):
        parent = parents[row["parents"][0]]
        assert (row["label"], row["source"]) == (parent["label"], parent["source"])


def test_new_rows_are_alive_train_and_have_no_history(config: MakerConfig, tmp_path: Path) -> None:
    new = made(config, [frame()], tmp_path)
    assert new["dropped_step"].is_null().all()
    assert set(new["pinned"]) == {"train"}
    assert (new["history"].list.len() == 0).all()


def test_the_seed_and_the_rows_decide(config: MakerConfig, tmp_path: Path) -> None:
    first, again = (made(config, [frame()], tmp_path / k) for k in "ab")
    assert first.equals(again, null_equal=True)


def test_how_rows_are_cut_into_parts_changes_nothing(config: MakerConfig, tmp_path: Path) -> None:
    whole = frame()
    parts = [whole[:1], whole[1:17], whole[17:17], whole[17:]]
    assert made(config, parts, tmp_path / "a").equals(made(config, [whole], tmp_path / "b"), null_equal=True)


def test_the_rows_given_stay_as_they_are(config: MakerConfig, tmp_path: Path) -> None:
    given = frame()
    made(config, [given], tmp_path)
    assert given.equals(frame(), null_equal=True)


def test_it_reports_once_what_it_made(config: MakerConfig, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    new = made(config, [frame()], tmp_path, report=lambda **counts: reports.append(counts))
    assert [(r["maker"], r["made"]) for r in reports] == [(config.name, new.height)]


def test_of_two_makers_of_a_kind_the_rows_have_different_origins(tmp_path: Path) -> None:
    twice = [MakerConfig(name="typos", options={"rate": 1.0})] * 2
    new = pl.concat(run(twice, [frame()], around(tmp_path)))
    assert set(new["origin"].str.split(":").list.first()) == {"typos", "typos-2"}
    assert new["id"].n_unique() == new.height


def test_a_generator_of_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="more than once"):
        run([MakerConfig(name="typos")], (f for f in [frame()]), around(tmp_path))


def test_unknown_maker_and_unknown_option_are_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="unknown maker 'typo'") as found:
        create("typo", {})
    assert found.value.hint == "did you mean 'typos'?"
    with pytest.raises(ConfigError, match="option 'x'"):
        create("typos", {"x": 1})


class Echo(MakerBase):
    """A third party's maker with a bug: it gives the rows back."""

    name: ClassVar[str] = "echo"

    def make(self, parts: Any, around: Around) -> Iterator[pl.DataFrame]:
        yield from parts


def test_a_maker_of_an_installed_package_is_found_and_held_to_the_contract(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = EntryPoint("echo", f"{__name__}:Echo", seam.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Echo)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == seam.GROUP else [])
    assert "echo" in names()
    with pytest.raises(RuntimeError, match="parents of each row"):
        list(run([MakerConfig(name="echo")], [frame()], around(tmp_path)))
