"""Groups that must not straddle, several stratified fields, and columns that are not there."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import polars as pl
import pytest

from tuneloop.data import DataConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.split import divide
from tuneloop.data.split.digests import digest, field
from tuneloop.errors import ConfigError, DataError


def rows(fields: list[dict[str, Any]], **columns: list[Any]) -> pl.DataFrame:
    n = len(fields)
    return make_frame(
        {
            "id": [f"r{i}" for i in range(n)],
            "messages": [[{"role": "user", "content": f"question number {i}"}] for i in range(n)],
            "source": [0] * n,
            "fields": [json.dumps(f, ensure_ascii=False) for f in fields],
            **columns,
        }
    )


def config(**more: Any) -> DataConfig:
    return DataConfig(**{"sources": "a.csv", "near_leaks": None, **more})


def test_a_customer_is_in_one_split_only() -> None:
    customers = [f"c{i % 40}" for i in range(400)]
    splits = divide(rows([{"customer": c} for c in customers]), config(group_column="customer")).verdicts["split"]
    where = {(c, s) for c, s in zip(customers, splits, strict=True)}
    assert len(where) == 40
    assert Counter(s for _, s in where) == {"train": 28, "validation": 6, "test": 6}


def test_large_groups_are_no_likelier_to_be_tested_than_small_ones() -> None:
    # 200 customers with one row and 200 with nine; were a group's place its smallest hash, test would be full of nines
    customers = [f"one{i}" for i in range(200)] + [f"nine{i // 9}" for i in range(1800)]
    splits = divide(rows([{"customer": c} for c in customers]), config(group_column="customer")).verdicts["split"]
    tested = {c for c, s in zip(customers, splits, strict=True) if s == "test"}
    # about 60 of 400 are drawn; half of them nines, give or take four standard deviations (hypergeometric: 3.6 each)
    assert abs(sum(c.startswith("nine") for c in tested) / len(tested) - 0.5) < 4 * 3.6 / len(tested)


def test_a_new_row_of_a_customer_goes_where_the_customer_is() -> None:
    customers = [f"c{i % 30}" for i in range(300)]
    before = divide(rows([{"customer": c} for c in customers]), config(group_column="customer")).verdicts["split"]
    more = [*customers, "c3"]
    after = divide(rows([{"customer": c} for c in more]), config(group_column="customer")).verdicts["split"]
    assert after[300] == after[3]
    assert (before != after[:300]).sum() <= 10  # at most one customer moved


def test_a_customer_of_a_prescribed_test_source_does_not_train() -> None:
    frame = rows([{"customer": c} for c in ("a", "b", "b", "a", "c")], pinned=["test", None, "train", None, None])
    sources = ({"path": "a"}, {"path": "b", "split": "test"})
    verdicts = divide(frame, config(group_column="customer", sources=sources)).verdicts
    assert verdicts["split"].to_list() == ["test", "train", "train", None, "train"]
    assert verdicts["reason"][3] == "leak: same customer as r0 of the test source"
    assert verdicts["partner"][3] == "r0"


def test_free_rows_follow_their_customer_into_a_prescribed_training_source() -> None:
    frame = rows([{"customer": f"c{i % 20}"} for i in range(40)], pinned=["train"] * 20 + [None] * 20)
    splits = divide(frame, config(group_column="customer")).verdicts["split"]
    assert set(splits) == {"train"}


def test_rows_without_a_customer_are_groups_of_their_own_and_counted() -> None:
    fields = [{"customer": "a"}] * 5 + [{}, {"customer": None}, {"customer": " "}] * 20
    decided = divide(rows(fields), config(group_column="customer"))
    assert decided.notes == ("60 rows have no customer: each of them is a group of its own",)
    assert decided.verdicts["split"][5:].n_unique() == 3


def test_two_fields_are_stratified_at_once() -> None:
    pairs = [("zh" if i % 3 else "en", f"l{i % 4}") for i in range(1200)]
    frame = rows([{"language": language} for language, _ in pairs], label=[label for _, label in pairs])
    decided = divide(frame, config(stratify_columns=("label", "language")))
    assert decided.classes["language"]["test"] == {"en": 60, "zh": 120}
    assert decided.classes["label"]["test"] == {f"l{k}": 45 for k in range(4)}
    assert [b.decision for b in decided.balance] == ["pass"] * 6


def test_the_label_columns_own_name_means_the_class() -> None:
    frame = rows([{}] * 40, label=["x", "y"] * 20)
    decided = divide(frame, config(label_column="intent", stratify_columns=("intent",)))
    assert decided.classes["label"]["test"] == {"x": 3, "y": 3}


def test_without_stratified_fields_only_the_totals_fit() -> None:
    decided = divide(rows([{}] * 100, label=["x", "y"] * 50), config(stratify_columns=()))
    assert Counter(decided.verdicts["split"]) == {"train": 70, "validation": 15, "test": 15}
    assert decided.classes == {}
    assert decided.labels == ("x", "y")


@pytest.mark.parametrize(
    ("more", "where"),
    [({"group_column": "custmer"}, "data.group_column"), ({"stratify_columns": ("lang",)}, "data.stratify_columns")],
)
def test_a_column_that_no_row_has_is_an_error(more: dict[str, Any], where: str) -> None:
    with pytest.raises(DataError) as caught:
        divide(rows([{"customer": "a"}] * 3), config(**more))
    assert caught.value.where == where
    assert caught.value.hint


def test_values_of_any_json_kind_are_compared_as_text() -> None:
    frame = rows([{"客户": "张"}, {"客户": 7}, {"客户": True}, {"客户": ""}, {"other": 1}])
    assert field(frame, "客户").to_list() == ["张", "7", "true", None, None]


@pytest.mark.parametrize("name", ["a.b", "it's", 'say "x"', "with space", "back\\slash", "$"])
def test_any_column_name_is_found(name: str) -> None:
    assert field(rows([{name: "v"}, {"x": "w"}]), name).to_list() == ["v", None]


def test_digests_of_another_seed_deal_in_another_order() -> None:
    frame = rows([{}] * 50)
    one, two = (digest(frame, config(seed=s))["key_high"].arg_sort() for s in (0, 1))
    assert not one.equals(two)


def test_the_hash_is_that_of_the_standard_library() -> None:
    import hashlib

    frame = rows([{}])
    expected = hashlib.blake2b(b"5\0question number 0", digest_size=16).digest()
    made = digest(frame, config(seed=5)).row(0, named=True)
    assert made["key_high"].to_bytes(8, "little") + made["key_low"].to_bytes(8, "little") == expected


def test_an_empty_frame_is_divided() -> None:
    decided = divide(rows([])[:0], config(group_column="customer"))
    assert decided.verdicts.height == 0
    assert decided.labels == ()


def test_one_large_group_is_named() -> None:
    decided = divide(
        rows([{"customer": "big"}] * 30 + [{"customer": f"c{i}"} for i in range(30)]), config(group_column="customer")
    )
    assert decided.notes[0].startswith("30 of 60 rows hang together by customer")


def test_stratify_columns_takes_one_name() -> None:
    assert config(stratify_columns="language").stratify_columns == ("language",)


def test_near_leaks_is_a_share() -> None:
    from tuneloop.config import build

    with pytest.raises(ConfigError, match="near_leaks"):
        build(DataConfig, {"sources": "a.csv", "near_leaks": 80})
