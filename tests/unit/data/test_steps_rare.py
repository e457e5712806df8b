"""merge_rare_classes."""

from __future__ import annotations

from collections import Counter

import polars as pl

from tuneloop.data.frame import make_frame
from tuneloop.data.steps.rare import MergeRareClasses


def rows(sizes: dict[str | None, int]) -> pl.DataFrame:
    labels = [label for label, n in sizes.items() for _ in range(n)]
    n = len(labels)
    turns = [[{"role": "user", "content": f"text {i}"}] for i in range(n)]
    return make_frame({"id": [f"r{i}" for i in range(n)], "messages": turns, "label": labels})


def test_classes_below_the_limit_are_merged_and_others_stay() -> None:
    after = MergeRareClasses().apply(rows({"a": 10, "b": 7, "c": 6, "d": 1, None: 3}))
    assert Counter(after["label"]) == {"a": 10, "b": 7, "other": 7, None: 3}


def test_the_history_keeps_the_class_a_row_had() -> None:
    after = MergeRareClasses(min_rows=2, into="rest").apply(rows({"a": 2, "d": 1}))
    assert after["history"].to_list() == [
        [], [], [{"step": "merge_rare_classes", "message": None, "before": "d", "after": "rest"}],
    ]  # fmt: skip


def test_the_class_that_takes_them_is_not_merged_into_itself() -> None:
    step = MergeRareClasses()
    after = step.apply(rows({"a": 10, "other": 2, "d": 1}))
    assert after["history"].list.len().sum() == 1
    assert step.notes == (
        "1 rows of 1 rare classes are now 'other': 'd' (1)",
        "'other' has 3 rows in all, still fewer than 7",
    )


def test_nothing_rare_changes_nothing_and_says_nothing() -> None:
    step, before = MergeRareClasses(), rows({"a": 10, "b": 7})
    assert step.apply(before).equals(before, null_equal=True)
    assert step.notes == ()
