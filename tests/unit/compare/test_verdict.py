"""The gate's error rates are computed exactly (every possible table, weighted by its probability) or simulated."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tuneloop.compare import CompareConfig, Paired, Question, judge, paired
from tuneloop.stats import mcnemar_exact, tango, wilson

GATE = CompareConfig(min_n=1, non_inferiority_margin=0.05, resamples=400)


@cache
def decision(question: Question, wins: int, losses: int, n: int, config: CompareConfig = GATE) -> str:
    d = tango(wins, losses, n)
    found = Paired(
        "accuracy", n, wins, n - wins - losses, losses, wilson(0, n), wilson(0, n), d, d, mcnemar_exact(wins, losses),
        "exact McNemar", True,
    )  # fmt: skip
    return judge(found, question, config).decision


def probabilities(question: Question, n: int, p_win: float, p_loss: float) -> Counter[str]:
    """Chance of each decision, exactly."""
    out: Counter[str] = Counter()
    for wins in range(n + 1):
        for losses in range(n + 1 - wins):
            table = [wins, losses, n - wins - losses]
            p = float(scipy_stats.multinomial.pmf(table, n, [p_win, p_loss, 1 - p_win - p_loss]))
            if p > 1e-9:
                out[decision(question, wins, losses, n)] += p  # type: ignore[assignment]
    return out


@pytest.mark.parametrize("changed", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("n", [40, 90])
def test_equal_models_are_rarely_called_better_or_worse(n: int, changed: float) -> None:
    chances = probabilities("better", n, changed / 2, changed / 2)
    assert chances["pass"] <= 0.025
    assert chances["fail"] <= 0.03  # Tango's interval is asymptotic


@pytest.mark.parametrize("changed", [0.06, 0.15, 0.4])
@pytest.mark.parametrize("n", [60, 100])
def test_a_model_that_is_worse_by_the_margin_rarely_passes_as_not_worse(n: int, changed: float) -> None:
    chances = probabilities("not worse", n, (changed - 0.05) / 2, (changed + 0.05) / 2)
    assert chances["pass"] <= 0.03
    assert chances["undecided"] > 0.9


def test_a_much_better_model_passes() -> None:
    assert probabilities("better", 60, 0.5, 0.05)["pass"] > 0.99


def test_a_much_worse_model_fails_both_gates() -> None:
    assert probabilities("better", 60, 0.05, 0.5)["fail"] > 0.99
    assert probabilities("not worse", 60, 0.05, 0.5)["fail"] > 0.99


def test_power_reaches_what_the_minimum_detectable_effect_says() -> None:
    from tuneloop.stats import minimum_detectable_effect

    n, changed = 100, 0.3
    effect = minimum_detectable_effect(n, changed)
    chances = probabilities("better", n, (changed + effect) / 2, (changed - effect) / 2)
    assert 0.7 < chances["pass"] < 0.85  # exact McNemar is a little less powerful than the approximation


def test_scores_that_are_not_binary_keep_the_error_rate() -> None:
    """600 simulated pairs of equal models: 2.5 % may pass; the bound allows for three standard errors."""
    rng = np.random.default_rng(11)
    passed = 0
    for _ in range(600):
        a, b = (dict(enumerate(rng.beta(2, 2, 40))) for _ in range(2))
        found = paired("rouge_l", a, b, GATE)  # type: ignore[arg-type]
        passed += judge(found, "better", GATE).decision == "pass"
    assert passed / 600 <= 0.025 + 3 * (0.025 * 0.975 / 600) ** 0.5


def test_agreement_on_few_items_does_not_prove_equality() -> None:
    """No difference in 50 still permits 7 points; 130 items without one settle three points."""
    config = CompareConfig(non_inferiority_margin=0.03)
    assert decision("not worse", 0, 0, 50, config) == "undecided"
    assert decision("not worse", 0, 0, 130, config) == "pass"


def test_too_few_items_are_undecided_whatever_they_say() -> None:
    assert decision("better", 29, 0, 29, CompareConfig(min_n=30)) == "undecided"
    assert decision("better", 30, 0, 30, CompareConfig(min_n=30)) == "pass"


def test_a_required_difference_moves_the_bound() -> None:
    config = CompareConfig(min_difference=0.3)
    assert decision("better", 20, 0, 100, config) == "fail"  # +20 points, surely below 30
    assert decision("better", 35, 0, 100, config) == "undecided"
    assert decision("better", 50, 0, 100, config) == "pass"


def test_an_adjusted_p_value_can_take_a_pass_away() -> None:
    d = tango(10, 1, 100)
    found = Paired("accuracy", 100, 10, 89, 1, wilson(0, 1), wilson(0, 1), d, d, mcnemar_exact(10, 1), "", True)
    assert judge(found, "better", GATE).decision == "pass"
    assert judge(found, "better", GATE, p_adjusted=0.2).decision == "undecided"
