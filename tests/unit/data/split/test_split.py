"""Stratified, seeded, stable, without leaks."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.data import DataConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.split import assign, drop_leaks, sample, shared_prompts


def rows(labels: list[str | None], prompts: list[str] | None = None, **columns: list[Any]) -> pl.DataFrame:
    prompts = prompts or [f"question number {i}" for i in range(len(labels))]
    turns = [[{"role": "user", "content": p}] for p in prompts]
    ids = [f"r{i}" for i in range(len(labels))]
    return make_frame({"id": ids, "messages": turns, "label": labels, "source": [0] * len(ids), **columns})


def config(**more: Any) -> DataConfig:
    """Without the search for similar prompts: those of ``rows`` differ in their number only."""
    return DataConfig(**{"sources": "a.csv", "near_leaks": None, **more})


def test_seventy_fifteen_fifteen_in_every_class() -> None:
    frame = rows(["a"] * 100 + ["b"] * 20)
    table = Counter(zip(frame["label"], assign(frame, config()), strict=True))
    assert table == {
        ("a", "train"): 70, ("a", "validation"): 15, ("a", "test"): 15,
        ("b", "train"): 14, ("b", "validation"): 3, ("b", "test"): 3,
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.integers(0, 5))
def test_every_class_trains_and_the_totals_fit_the_ratios(sizes: list[int], seed: int) -> None:
    frame = rows([f"c{k}" for k, n in enumerate(sizes) for _ in range(n)])
    splits = assign(frame, config(seed=seed))

    assert set(frame.filter(splits == "train")["label"]) == set(frame["label"])
    counts, n = Counter(splits), sum(sizes)
    if min(sizes) >= 3:  # classes of one or two rows go to train whatever the ratio
        for name, ratio in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
            assert abs(counts[name] - n * ratio) <= 2


def test_a_class_with_one_row_trains() -> None:
    frame = rows(["a"] * 20 + ["rare"])
    assert assign(frame, config())[20] == "train"


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    frame = rows(["a"] * 60)
    assert assign(frame, config()).equals(assign(frame, config()))
    assert not assign(frame, config()).equals(assign(frame, config(seed=1)))


def test_the_order_of_the_rows_does_not_matter() -> None:
    frame = rows(["a", "b"] * 40)
    order = list(range(80))
    random.Random(3).shuffle(order)
    before = dict(zip(frame["id"], assign(frame, config()), strict=True))
    assert dict(zip(frame[order]["id"], assign(frame[order], config()), strict=True)) == before


def test_adding_rows_moves_few() -> None:
    frame = rows(["a"] * 220)
    before, after = assign(frame[:200], config()), assign(frame, config())[:200]
    moved = int((before != after).sum())
    # 10 % more rows shift two borders by about 15 % and 30 % of 10 % of the rows: at most a few of 200
    assert moved <= 12


def test_rows_with_one_prompt_stay_together() -> None:
    frame = rows([None] * 60, prompts=[f"prompt {i % 20}" for i in range(60)])
    splits = assign(frame, config())
    assert shared_prompts(frame, splits) == 0
    assert set(splits) == {"train", "validation", "test"}


def test_grouped_rows_stay_together() -> None:
    frame = rows(["a", "b"] * 30, group=[f"g{i // 2}" for i in range(60)])
    splits = assign(frame, config()).to_list()
    assert all(splits[i] == splits[i + 1] for i in range(0, 60, 2))


def test_shared_prompts_are_counted() -> None:
    frame = rows(["a"] * 3, prompts=["Same?", "same", "other"])
    assert shared_prompts(frame, pl.Series(["train", "test", "train"])) == 1


def test_prescribed_splits_are_obeyed_and_the_others_share_the_rest() -> None:
    sources = ({"path": "train.csv"}, {"path": "test.csv", "split": "test"})
    frame = rows(["a"] * 120, pinned=[None] * 100 + ["test"] * 20)
    splits = assign(frame, config(sources=sources))
    assert set(splits[100:]) == {"test"}
    # 0.7 : 0.15 of 100 rows
    assert Counter(splits[:100]) == {"train": 82, "validation": 18}


def test_a_row_follows_a_pinned_row_with_the_same_prompt() -> None:
    frame = rows([None] * 40, prompts=[f"p{i % 20}" for i in range(40)], pinned=["train"] * 20 + [None] * 20)
    splits = assign(frame, config(sources=({"path": "a", "split": "train"}, {"path": "b"})))
    assert set(splits) == {"train"}


def test_leaks_into_prescribed_sources_are_dropped_and_named() -> None:
    frame = rows(["x"] * 4, prompts=["one", "ONE!", "two", "one"], pinned=["test", None, None, "validation"])
    after = drop_leaks(frame)
    assert after["dropped_reason"].to_list() == [
        None,
        "leak: same prompt as r0 of the test source",
        None,
        "leak: same prompt as r0 of the test source",
    ]
    assert after["partner"].to_list() == [None, "r0", None, "r0"]


def test_a_sample_is_stratified_and_every_other_row_says_not_sampled() -> None:
    frame = rows(["a"] * 80 + ["b"] * 20)
    after, warnings = sample(frame, config(sources={"path": "a.csv", "rows": 10}))
    kept = after.filter(pl.col("dropped_step").is_null())
    assert Counter(kept["label"]) == {"a": 8, "b": 2}
    assert set(after["dropped_reason"].drop_nulls()) == {"not sampled: 10 of 100 rows"}
    assert after["dropped_reason"].null_count() == 10
    assert warnings == []


def test_a_sample_larger_than_the_source_takes_all_and_warns() -> None:
    after, warnings = sample(rows(["a"] * 5), config(sources={"path": "a.csv", "rows": 10}))
    assert after["dropped_step"].null_count() == 5
    assert warnings == ["a.csv has 5 clean rows, fewer than the 10 asked for"]
