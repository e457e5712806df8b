from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.unit.data.steps.rows import classes, real, reasons
from tuneloop.data.steps import create

pytest.importorskip("sklearn")

KINDS = {
    "lost": "my card was lost in the {} yesterday evening",
    "rate": "what exchange rate do you take for {} today",
    "top_up": "the top up from the {} has not arrived yet",
}
THINGS = ["park", "train", "office", "dollars", "euros", "yen", "salary", "shop", "hotel", "bank"]


def rows(n: int) -> tuple[list[str], list[str]]:
    kinds = [list(KINDS)[k % 3] for k in range(n)]
    return [f"{KINDS[kind].format(THINGS[k // 3 % 10])} number {k}" for k, kind in enumerate(kinds)], kinds


def flipped(frame: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, np.ndarray]:
    """The frame with some classes replaced by others, and which."""
    draw = np.random.default_rng(seed)
    names = sorted(frame["label"].unique())
    codes = np.array([names.index(label) for label in frame["label"]])
    wrong = draw.random(len(codes)) < share
    codes[wrong] = (codes[wrong] + draw.integers(1, len(names), wrong.sum())) % len(names)
    return frame.with_columns(label=pl.Series([names[code] for code in codes])), wrong


def quality(reasons_: list[str | None], wrong: np.ndarray) -> tuple[float, float]:
    """Precision and recall."""
    found = np.array([reason is not None for reason in reasons_])
    return (found & wrong).sum() / max(found.sum(), 1), (found & wrong).sum() / wrong.sum()


def test_a_wrong_class_is_found_and_the_likely_one_is_named() -> None:
    texts, labels = rows(300)
    labels[0] = "rate"
    found = reasons("mislabelled", classes(texts, labels), action="drop")
    assert found[0] is not None
    assert found[0].startswith("mislabelled: rate (0.")
    assert "reads like lost" in found[0]
    assert sum(reason is not None for reason in found) == 1


def test_a_flag_keeps_the_rows_and_names_them() -> None:
    texts, labels = rows(300)
    labels[0] = "rate"
    step = create("mislabelled", {})
    after = step.apply(classes(texts, labels))
    assert after["dropped_reason"].null_count() == 300
    assert list(step.notes) == ["1 of 300 rows (0.3%) look mislabelled and are kept (flag): r0 (rate, reads like lost)"]


def test_too_few_rows_are_not_judged_and_that_is_said() -> None:
    step = create("mislabelled", {})
    step.apply(classes(*rows(30)))
    assert "too few to learn from" in step.notes[0]


def test_rows_without_a_class_are_left_alone() -> None:
    step = create("mislabelled", {})
    after = step.apply(classes(["a", "b"], [None, None]))
    assert after["dropped_reason"].null_count() == 2
    assert step.notes == ()


def test_rows_outside_the_sample_are_judged_too() -> None:
    texts, labels = rows(600)
    wrong = np.arange(600) % 57 == 0
    labels = ["rate" if bad else label for bad, label in zip(wrong, labels, strict=True)]
    precision, recall = quality(reasons("mislabelled", classes(texts, labels), action="drop", max_rows=200), wrong)
    assert precision == 1.0
    assert recall >= 0.7  # nine of eleven: the sample holds four of them to take the cutoff from


def test_flipped_classes_of_banking77_are_found() -> None:
    frame, wrong = flipped(real("intent_en/banking77_train.csv")[:2000], 0.05, seed=0)  # 15 of the 77 classes
    precision, recall = quality(reasons("mislabelled", frame, action="drop"), wrong)
    assert precision >= 0.80
    assert recall >= 0.75


@pytest.mark.slow
def test_flipped_classes_of_all_of_banking77_are_found() -> None:
    """Measured: precision 0.87, 0.89, 0.82 and recall 0.93, 0.92, 0.94 with seeds 0, 1 and 2.

    Precision is a lower bound: Banking77 has wrong labels of its own (Ying & Thomas, "Label Errors in BANKING77", 2022).
    """
    frame, wrong = flipped(real("intent_en/banking77_train.csv"), 0.05, seed=0)
    precision, recall = quality(reasons("mislabelled", frame, action="drop"), wrong)
    assert precision >= 0.80
    assert recall >= 0.90
