"""Classes of even size: copies of small ones, drops of large ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pytest

from tests.unit.data.makers.conftest import Make, rows, said
from tuneloop.data.config import MakerConfig
from tuneloop.data.makers import surplus
from tuneloop.errors import ConfigError

SIZES = {"a": 7, "b": 3, "c": 2}


def classes(sizes: dict[str, int] = SIZES) -> pl.DataFrame:
    labels = [label for label, size in sizes.items() for _ in range(size)]
    return rows([f"{label} {k}" for k, label in enumerate(labels)], labels)


@pytest.mark.parametrize(
    ("target", "made"), [("max", {"b": 4, "c": 5}), ("median", {"c": 1}), (5, {"b": 2, "c": 3}), (2, {})]
)
def test_copies_fill_classes_up_to_the_target(make: Make, target: Any, made: dict[str, int]) -> None:
    new = make("balance", {"target": target}, classes())
    assert Counter(new["label"]) == made


def test_rows_of_a_class_are_copied_equally_often(make: Make) -> None:
    copies = Counter(said(make("balance", {"target": 7}, classes()).filter(pl.col("label") == "c")))
    assert sorted(copies.values()) == [2, 3]


def test_rows_without_a_class_are_not_copied(make: Make) -> None:
    frame = rows(["a", "b", "c"], [None, "x", None])
    assert set(make("balance", {"target": 4}, frame)["label"]) == {"x"}


def dropped(options: dict[str, Any], frame: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    config = MakerConfig(name="balance", options={"mode": "under", **options})
    return frame.select("id", "label").join(surplus([config], frame, seed), on="id", how="inner")


@pytest.mark.parametrize(
    ("target", "gone"), [("min", {"a": 5, "b": 1}), ("median", {"a": 4}), (1, {"a": 6, "b": 2, "c": 1})]
)
def test_surplus_leaves_the_target(target: Any, gone: dict[str, int]) -> None:
    assert Counter(dropped({"target": target}, classes())["label"]) == gone


def test_a_drop_says_how_many_are_kept() -> None:
    assert set(dropped({"target": 3}, classes())["reason"]) == {"balance: 3 of 7 rows of class a are kept"}


def test_which_rows_go_depends_on_seed_and_not_on_order() -> None:
    frame = classes({"a": 100, "b": 50})
    here, shuffled, other = (
        set(dropped({}, frame)["id"]),
        set(dropped({}, frame.sample(fraction=1, shuffle=True, seed=3))["id"]),
        set(dropped({}, frame, seed=1)["id"]),
    )
    assert here == shuffled
    assert here != other


def test_under_makes_no_rows_and_over_drops_none(make: Make) -> None:
    assert make("balance", {"mode": "under"}, classes()).height == 0
    assert surplus([MakerConfig(name="balance")], classes(), 0).height == 0


def test_data_without_classes_cannot_be_balanced(make: Make) -> None:
    with pytest.raises(ConfigError, match="no training row has a class") as found:
        make("balance", {}, rows(["a", "b"], [None, None]))
    assert "data.label_column" in str(found.value.hint)


@pytest.mark.parametrize("options", [{"mode": "over", "target": "min"}, {"mode": "under", "target": "max"}])
def test_a_target_that_changes_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="changes nothing"):
        MakerConfig(name="balance", options=options)
