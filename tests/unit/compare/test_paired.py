from __future__ import annotations

import numpy as np
import pytest

from tuneloop.compare import CompareConfig, paired
from tuneloop.errors import DataError

CONFIG = CompareConfig(resamples=500)


def binary(right: str) -> dict[str, float]:
    return {str(i): float(c) for i, c in enumerate(right)}


def test_wins_ties_and_losses_by_hand() -> None:
    found = paired("accuracy", binary("00110"), binary("01101"), CONFIG)
    assert (found.wins, found.ties, found.losses, found.n) == (2, 2, 1, 5)
    assert found.difference.value == pytest.approx(1 / 5)
    assert (found.baseline.value, found.candidate.value) == (0.4, 0.6)


def test_published_example_cavo_2012() -> None:
    """59 both, 6 only first, 16 only second, 80 neither; p and interval as printed by the R package contingencytables."""
    first, second = binary("1" * 59 + "1" * 6 + "0" * 16 + "0" * 80), binary("1" * 59 + "0" * 6 + "1" * 16 + "0" * 80)
    found = paired("accuracy", first, second, CONFIG)
    assert found.p_value == pytest.approx(0.052479, abs=5e-7)
    assert [round(x, 4) for x in (found.difference.low, found.difference.high)] == [0.0054, 0.1240]
    assert found.test == "exact McNemar"


def test_the_bootstrap_of_the_same_difference_stands_beside_it() -> None:
    rng = np.random.default_rng(0)
    a, b = (binary("".join(map(str, rng.binomial(1, p, 400)))) for p in (0.5, 0.6))
    found = paired("accuracy", a, b, CompareConfig(resamples=4000))
    assert (found.bootstrap.low, found.bootstrap.high) == pytest.approx(
        (found.difference.low, found.difference.high), abs=0.01
    )


def test_scores_between_zero_and_one_use_the_margin_and_the_permutation_test() -> None:
    a = {"x": 0.50, "y": 0.50, "z": 0.50}
    b = {"x": 0.52, "y": 0.80, "z": 0.10}
    found = paired("rouge_l", a, b, CompareConfig(tie_margin=0.05, resamples=500))
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert found.test == "sign-flip permutation"


def test_scores_that_never_differ_do_not_prove_equality() -> None:
    """The bootstrap alone would say [0, 0]; with right-or-wrong scores Tango gives ±7.1 points for 50 items."""
    same = {str(i): 0.5 + i / 200 for i in range(50)}
    found = paired("rouge_l", same, same, CompareConfig(resamples=4000))
    assert (found.bootstrap.low, found.bootstrap.high) == (0.0, 0.0)
    assert 0.03 < found.difference.high < 0.08
    assert -0.08 < found.difference.low < -0.03


def test_the_padding_vanishes_with_many_items_that_differ() -> None:
    rng = np.random.default_rng(2)
    a, b = (dict(enumerate(rng.beta(2, 2, 2000))) for _ in range(2))
    found = paired("rouge_l", a, b, CompareConfig(resamples=2000))  # type: ignore[arg-type]
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (found.bootstrap.low, found.bootstrap.high), abs=0.002
    )


def test_the_order_of_the_items_does_not_matter() -> None:
    a, b = binary("0011010"), binary("0110111")
    turned = dict(reversed(list(b.items())))
    assert paired("accuracy", a, b, CONFIG) == paired("accuracy", a, turned, CONFIG)


def test_other_items_are_an_error_that_counts_them() -> None:
    with pytest.raises(DataError, match="1 only the baseline, 2 only the candidate") as caught:
        paired("accuracy", {"a": 1.0, "b": 0.0}, {"b": 1.0, "c": 1.0, "d": 0.0}, CONFIG)
    assert caught.value.hint


def test_no_items_are_an_error() -> None:
    with pytest.raises(DataError, match="no scores"):
        paired("accuracy", {}, {}, CONFIG)
