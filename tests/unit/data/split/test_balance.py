"""Divergence of each split from the whole: pass, fail, undecided."""

from __future__ import annotations

import math

import pytest
from scipy.special import rel_entr

from tuneloop.data.split import Balance, apportion, balance_report
from tuneloop.data.split.balance import kl


def judge(train: dict[str, int], test: dict[str, int]) -> Balance:
    return balance_report({"label": {"train": train, "test": test}})[1]


def test_divergence_by_hand() -> None:
    # half and half against three quarters and one quarter: 0.5 ln(2/3) + 0.5 ln 2
    assert kl({"a": 1, "b": 1}, {"a": 3, "b": 1}) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_divergence_is_that_of_scipy() -> None:
    part, whole = {"a": 5, "b": 1, "c": 9}, {"a": 40, "b": 12, "c": 31, "d": 7}
    p = [part.get(k, 0) / 15 for k in whole]
    q = [n / 90 for n in whole.values()]
    assert kl(part, whole) == pytest.approx(float(sum(rel_entr(p, q))))


def test_equal_shares_diverge_by_nothing() -> None:
    assert judge({"a": 70, "b": 14}, {"a": 15, "b": 3}).kl_nats == pytest.approx(0.0, abs=1e-12)


def test_within_the_limit_it_passes() -> None:
    found = judge({"a": 70, "b": 30}, {"a": 14, "b": 16})
    assert (found.decision, found.rows) == ("pass", 30)


def test_a_skewed_split_of_enough_rows_fails() -> None:
    found = judge({"a": 500, "b": 500}, {"a": 199, "b": 1})
    assert found.decision == "fail"
    assert "more than 0.1" in found.reason


def test_it_is_undecidable_where_no_split_of_that_size_could_be_within_the_limit() -> None:
    # twelve rows cannot show 77 equal classes: ln(77 / 12) at best
    found = judge({f"c{k}": 6 if k < 12 else 7 for k in range(77)}, {f"c{k}": 1 for k in range(12)})
    assert found.decision == "undecided"
    assert found.attainable_nats == pytest.approx(math.log(77 / 12))
    assert found.reason.startswith("undecidable: ")


def test_it_is_undecidable_where_chance_alone_would_miss_the_limit() -> None:
    # twenty rows, twenty classes: attainable (one row each), but (20 - 1) / 40 is above the limit
    whole = {f"c{k}": 10 for k in range(20)}
    test = {f"c{k}": 2 for k in range(10)}
    found = judge({name: rows - test.get(name, 0) for name, rows in whole.items()}, test)
    assert found.attainable_nats == pytest.approx(0.0, abs=1e-9)
    assert found.chance_nats == pytest.approx(19 / 40 * 180 / 199)
    assert found.decision == "undecided"


def test_rare_classes_are_named_the_rarest_first_with_a_merge() -> None:
    train = {"a": 84, "z": 1, "y": 2}
    found = judge(train, {"a": 7, "z": 3, "y": 3})
    assert found.rare == ("z", "y")
    # 13 of 100 rows: a class needs 8 for a fair share of one
    assert (
        "fewer than 8 rows): 'z', 'y'. Add rows, or merge them: step merge_rare_classes with min_rows: 8"
        in found.reason
    )


def test_chance_is_what_random_splits_do() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 60)
    whole = {str(k): 60 for k in range(10)}
    drawn = [rng.choice(labels, 90, replace=False) for _ in range(2_000)]
    mean = np.mean([kl({str(k): int(n) for k, n in enumerate(np.bincount(d, minlength=10))}, whole) for d in drawn])
    found = judge({k: n - 9 for k, n in whole.items()}, dict.fromkeys(whole, 9))
    assert found.chance_nats == pytest.approx(mean, rel=0.05)


def test_one_class_and_empty_splits_are_not_judged() -> None:
    assert balance_report({"label": {"train": {"a": 5}, "test": {"a": 1}}}) == []
    assert [b.split for b in balance_report({"label": {"train": {"a": 5, "b": 1}, "test": {}}})] == ["train"]


@pytest.mark.parametrize(
    ("sizes", "total", "seats"),
    [
        ({"a": 50, "b": 30, "c": 20}, 10, {"a": 5, "b": 3, "c": 2}),
        # exact shares 4.35, 3.04, 2.61: the seat left over goes to the largest remainder
        ({"a": 10, "b": 7, "c": 6}, 10, {"a": 4, "b": 3, "c": 3}),
    ],
)
def test_apportion_by_largest_remainder(sizes: dict[str, int], total: int, seats: dict[str, int]) -> None:
    assert apportion(sizes, total) == seats
