"""Intervals and tests that evaluate and compare share. Every function states its source.

Sources: Wilson, JASA 22 (1927) 209-212; Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13;
McNemar, Psychometrika 12 (1947) 153-157, exact form as in Fagerland, Lydersen & Laake, BMC Med Res Methodol 13:91 (2013);
Tango, Stat Med 17 (1998) 891-908; Holm, Scand J Stat 6 (1979) 65-70.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from tuneloop.types import Interval

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Z95 = 1.959963984540054
"""0.975 quantile of the standard normal distribution."""

CHUNK_CELLS = 4_000_000
"""How many resampled counts are held at a time (32 MB)."""


def wilson(successes: int, n: int) -> Interval:
    """Wilson score interval (95 %) of a proportion; ``n`` = 0 gives [0, 1]."""
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0, "wilson")
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, n, "wilson")


def wilson_f1(true_positives: int, false_positives: int, false_negatives: int) -> Interval:
    """F1 of one class with the "indirect Wilson" interval (95 %).

    J = tp / (tp + fp + fn) is a proportion and F1 = 2J / (1 + J) grows with it, so the ends of J's Wilson interval map
    to the ends of F1's (Lam, Gopal & Qian, "Confidence intervals for the F1 score", arXiv:2309.14621, 2023).
    """
    j = wilson(true_positives, true_positives + false_positives + false_negatives)
    value, low, high = (2 * x / (1 + x) for x in (j.value, j.low, j.high))
    return Interval(value, low, high, j.n, "wilson-f1")


def bootstrap(
    statistic: Callable[[Array], float], n: int, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap over items.

    Args:
        statistic: Takes an array of n item indices (with repeats) and returns the statistic.
        n: How many items there are.
        resamples: How many data sets are drawn.
        seed: Of the draws.
        confidence: Of the interval.
    """
    import numpy as np

    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, f"bootstrap-{resamples}", confidence)
    rng = np.random.default_rng(seed)
    value = float(statistic(np.arange(n)))
    draws = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)], dtype=float)
    return _percentile(value, draws, n, resamples, confidence)


def bootstrap_sums(
    rows_NK: Array,
    statistic: Callable[[Array], Array],
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap of a function of column sums: a mean, macro-F1, BLEU, perplexity.

    Resampling rows only changes how often each is counted, so all resamples are one matrix product.

    Args:
        rows_NK: K additive counts of each of N items.
        statistic: Column sums ``(R, K)`` -> R values.
        resamples: How many data sets are drawn.
        seed: Of the draws.
        confidence: Of the interval.
    """
    import numpy as np

    rows_NK = np.asarray(rows_NK, dtype=float)
    n = len(rows_NK)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, f"bootstrap-{resamples}", confidence)
    rng = np.random.default_rng(seed)
    value = float(statistic(rows_NK.sum(0, keepdims=True))[0])
    step, parts = max(1, CHUNK_CELLS // n), []
    for start in range(0, resamples, step):
        picks_RN = rng.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start))
        parts.append(np.asarray(statistic(picks_RN.astype(float) @ rows_NK), dtype=float))
    return _percentile(value, np.concatenate(parts), n, resamples, confidence)


def _percentile(value: float, draws: Array, n: int, resamples: int, confidence: float) -> Interval:
    import numpy as np

    draws = draws[np.isfinite(draws)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) if len(draws) else (math.nan, math.nan)
    return Interval(value, float(low), float(high), n, f"bootstrap-{resamples}", confidence)


def median(values: Sequence[float]) -> Interval:
    """Median with the order-statistic interval: no assumption about the distribution, coverage at least 95 %.

    The ends are the k-th smallest and k-th largest value with the largest k for which Binomial(n, 1/2) lies below k
    with at most 2.5 %; below six values no such k exists and the whole range is given with the coverage it has.
    Source: Conover, Practical Nonparametric Statistics (1999), section 3.2.
    """
    ordered, n = sorted(values), len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, "order-statistics")
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    k, below, tail = 1, 2.0**-n, 2.0**-n
    while k < n and below + (tail := tail * (n - k + 1) / k) <= 0.025:
        below, k = below + tail, k + 1
    coverage = 1 - 2 * below
    return Interval(middle, ordered[k - 1], ordered[n - k], n, "order-statistics", min(0.95, coverage))


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact McNemar p-value: doubled binomial tail of the discordant pairs, at most 1."""
    n = wins + losses
    if n == 0:
        return 1.0
    term, tail = 1, 0  # whole numbers: exact for any n
    for k in range(min(wins, losses) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    p: float = 2 * tail / 2**n
    return min(1.0, p)


def tango_z(wins: int, losses: int, n: int, difference: float) -> float:
    """Tango's score statistic for "the true difference (wins - losses) / n is ``difference``".

    About standard normal under that hypothesis; its square is McNemar's statistic at 0.
    """
    a = 2.0 * n
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + difference * (1 - difference))
    numerator = wins - losses - n * difference
    if variance <= 1e-12:
        return 0.0 if abs(numerator) < 1e-12 else math.copysign(math.inf, numerator)
    return numerator / math.sqrt(variance)


def tango(wins: int, losses: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Difference of two proportions measured on the same n items, with Tango's score interval.

    Unlike a bootstrap it keeps its width when no item differs: 0 changes among 20 still permit a loss of 16 points.
    """
    if n == 0:
        return Interval(math.nan, -1.0, 1.0, 0, "tango", confidence)
    z, value = NormalDist().inv_cdf((1 + confidence) / 2), (wins - losses) / n

    def end(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(tango_z(wins, losses, n, middle)) <= z:
                inside = middle
            else:
                outside = middle
        return inside

    low = -1.0 if losses == n else end(value, -1.0)
    high = 1.0 if wins == n else end(value, 1.0)
    return Interval(value, low, high, n, "tango", confidence)


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Mean of ``b - a`` over the same items with a percentile bootstrap interval."""
    import numpy as np

    d = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    rows = np.stack([d, np.ones_like(d)], axis=1)
    return bootstrap_sums(rows, lambda s: s[:, 0] / s[:, 1], resamples=resamples, seed=seed, confidence=confidence)


def sign_flip(a: Sequence[float], b: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the paired permutation test of the mean difference: each sign is flipped by a coin.

    Monte-Carlo with the +1 correction, so that it is never 0 and never too small (Phipson & Smyth, 2010).
    """
    import numpy as np

    d = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    d = d[d != 0]
    if len(d) == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    seen, reached, step = abs(d.sum()), 0, max(1, CHUNK_CELLS // len(d))
    for start in range(0, resamples, step):
        signs = rng.integers(0, 2, (min(step, resamples - start), len(d)), dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ d) >= seen - 1e-9 * max(1.0, seen)).sum())
    return (reached + 1) / (resamples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values, in the order given: the chance of any false finding stays below α."""
    out: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        out[name] = highest
    return {name: out[name] for name in p_values}


def minimum_detectable_effect(n: int, discordant: float, *, power: float = 0.8) -> float:
    """Smallest paired difference in proportions that n items detect at α = 0.05 (two-sided); 1.0 when none is.

    Normal approximation of McNemar's test (Connor, Biometrics 43 (1987) 207-211), solved for the difference. A share
    ``discordant`` of the items changes; a difference cannot exceed it, so beyond it the share grows with the difference.
    """
    z_beta = NormalDist().inv_cdf(power)

    def needed(d: float) -> float:
        share = max(discordant, d)
        return (Z95 * math.sqrt(share) + z_beta * math.sqrt(share - d * d)) ** 2 / (d * d)

    if n == 0 or needed(1.0) > n:
        return 1.0
    low, high = 1e-9, 1.0
    for _ in range(60):
        mid = (low + high) / 2
        low, high = (mid, high) if needed(mid) > n else (low, mid)
    return high
