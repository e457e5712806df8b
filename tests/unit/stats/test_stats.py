"""Golden values come from published tables that each test cites; scipy is the second oracle."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tuneloop import stats


@pytest.mark.parametrize(
    ("x", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_newcombe_1998_table_1(x: int, n: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    interval = stats.wilson(x, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@pytest.mark.parametrize(("x", "n"), [(0, 5), (5, 5), (3, 40), (399, 400)])
def test_wilson_agrees_with_scipy(x: int, n: int) -> None:
    theirs = scipy_stats.binomtest(x, n).proportion_ci(0.95, "wilson")
    assert (stats.wilson(x, n).low, stats.wilson(x, n).high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_no_items_permit_every_proportion() -> None:
    assert (stats.wilson(0, 0).low, stats.wilson(0, 0).high) == (0.0, 1.0)


def test_mcnemar_agrees_with_published_examples() -> None:
    """Cavo 2012 (6 against 16) in the tests of the R package contingencytables; Bentur 2009 (1 against 7) in Fagerland,
    Lydersen & Laake, BMC Med Res Methodol 13:91 (2013): 0.0703."""
    assert stats.mcnemar_exact(6, 16) == pytest.approx(0.052479, abs=5e-7)
    assert stats.mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_mcnemar_agrees_with_scipys_binomial_test() -> None:
    for wins, losses in itertools.product((0, 1, 5, 40, 1500), repeat=2):
        if wins + losses:
            expected = scipy_stats.binomtest(wins, wins + losses).pvalue
            assert stats.mcnemar_exact(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_without_a_discordant_pair_nothing_differs() -> None:
    assert stats.mcnemar_exact(0, 0) == 1.0


def test_tango_agrees_with_contingencytables() -> None:
    """Cavo 2012: the package's own test prints -0.0621 (95% CI -0.1240 to -0.0054)."""
    interval = stats.tango(6, 16, 59 + 6 + 16 + 80)
    assert [round(x, 4) for x in (interval.value, interval.low, interval.high)] == [-0.0621, -0.1240, -0.0054]


def test_tango_squared_is_mcnemars_statistic_at_zero() -> None:
    assert stats.tango_z(6, 16, 161, 0.0) == pytest.approx((6 - 16) / math.sqrt(22))


def test_tango_keeps_its_width_without_a_change() -> None:
    """With no discordant pair the limits are z² / (n + z²) (set wins = losses = 0 in the statistic)."""
    interval = stats.tango(0, 0, 20)
    expected = stats.Z95**2 / (20 + stats.Z95**2)
    assert (interval.low, interval.high) == pytest.approx((-expected, expected), abs=1e-9)


@pytest.mark.parametrize(("wins", "losses", "n"), [(0, 0, 1), (5, 0, 5), (0, 5, 5), (0, 3, 100), (100, 3, 103)])
def test_tango_holds_its_estimate_and_stays_a_difference(wins: int, losses: int, n: int) -> None:
    interval = stats.tango(wins, losses, n)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    mirror = stats.tango(losses, wins, n)
    assert (mirror.low, mirror.high) == pytest.approx((-interval.high, -interval.low), abs=1e-9)


def test_tango_covers_at_its_nominal_rate() -> None:
    """Exact coverage by enumeration: n = 40, P(win) = 0.25, P(loss) = 0.10, true difference 0.15."""
    n, p_win, p_loss = 40, 0.25, 0.10
    covered = sum(
        float(scipy_stats.multinomial.pmf([w, c, n - w - c], n, [p_win, p_loss, 1 - p_win - p_loss]))
        for w in range(n + 1)
        for c in range(n + 1 - w)
        if abs(stats.tango_z(w, c, n, p_win - p_loss)) <= stats.Z95
    )
    assert 0.94 < covered < 0.97


def test_wilson_f1_maps_the_jaccard_interval() -> None:
    """tp 8, fp 1, fn 1: F1 = 16/18, J = 8/10 whose Wilson interval is 0.4902 to 0.9433 (scipy)."""
    ci = scipy_stats.binomtest(8, 10).proportion_ci(0.95, "wilson")
    f1 = stats.wilson_f1(8, 1, 1)
    assert f1.value == pytest.approx(16 / 18)
    assert (f1.low, f1.high) == pytest.approx((2 * ci.low / (1 + ci.low), 2 * ci.high / (1 + ci.high)))


def test_bootstrap_of_sums_agrees_with_the_plain_bootstrap() -> None:
    values = np.random.default_rng(1).normal(size=300)
    plain = stats.bootstrap(lambda i: float(values[i].mean()), 300, resamples=4000)
    fast = stats.bootstrap_sums(values[:, None], lambda s: s[:, 0] / 300, resamples=4000)
    assert fast.value == pytest.approx(plain.value)
    assert (fast.low, fast.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_bootstrap_of_sums_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(20.0)[:, None]
    whole = stats.bootstrap_sums(rows, lambda s: s[:, 0], resamples=100)
    monkeypatch.setattr(stats, "CHUNK_CELLS", 60)
    assert stats.bootstrap_sums(rows, lambda s: s[:, 0], resamples=100) == whole


def test_bootstrap_covers_a_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        interval = stats.bootstrap_sums(rng.exponential(size=(80, 1)), lambda s: s[:, 0] / 80, resamples=400)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.89 < hits / 400 < 0.98  # skewed data: percentile intervals run a little short


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (9, 2), (16, 4), (20, 6), (30, 10)])
def test_median_uses_the_ranks_of_the_sign_test_table(n: int, rank: int) -> None:
    """Ranks (k, n+1-k) of the 95 % interval of a median: Conover (1999), table A3, e.g. n = 20 -> 6 and 15."""
    interval = stats.median([float(i) for i in range(1, n + 1)])
    assert (interval.low, interval.high) == (rank, n + 1 - rank)
    assert interval.value == (n + 1) / 2


def test_few_values_say_what_their_range_covers() -> None:
    interval = stats.median([3.0, 1.0, 2.0])
    assert (interval.low, interval.value, interval.high) == (1.0, 2.0, 3.0)
    assert interval.confidence == pytest.approx(0.75)  # 1 - 2/2³


def test_holm_by_hand() -> None:
    """0.01·4, 0.02·3, 0.03·2, 0.04·1, made monotone."""
    assert stats.holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02}) == pytest.approx(
        {"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06}
    )


def test_sign_flip_agrees_with_scipys_permutation_test() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=12), rng.normal(0.6, size=12)
    exact = scipy_stats.permutation_test((b - a,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert stats.sign_flip(a.tolist(), b.tolist()) == pytest.approx(exact, abs=0.01)


def test_sign_flip_of_equal_scores_is_one() -> None:
    assert stats.sign_flip([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_minimum_detectable_effect_has_its_power() -> None:
    """Simulated: the effect found for n = 300 and 20 % changed items is detected in about 80 % of experiments."""
    n, discordant = 300, 0.2
    effect = stats.minimum_detectable_effect(n, discordant)
    draws = np.random.default_rng(7).multinomial(
        n, [(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant], size=3000
    )
    critical = [abs(w - c) / math.sqrt(max(w + c, 1)) > stats.Z95 for w, c, _ in draws]
    assert 0.77 < np.mean(critical) < 0.83


def test_minimum_detectable_effect_of_few_items_exceeds_the_changed_share() -> None:
    assert stats.minimum_detectable_effect(20, 0.05) > 0.05
    assert stats.minimum_detectable_effect(3, 0.2) == 1.0
