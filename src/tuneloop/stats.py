"""Intervals and tests that evaluate and compare share. Every function states its source.

Sources: Wilson, JASA 22 (1927) 209-212; Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13;
McNemar, Psychometrika 12 (1947) 153-157, exact form as in Fagerland, Lydersen & Laake, BMC Med Res Methodol 13:91 (2013).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tuneloop.types import Interval

if TYPE_CHECKING:
    import numpy as np

Z95 = 1.959963984540054
"""0.975 quantile of the standard normal distribution."""


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


def bootstrap(
    statistic: Callable[[np.ndarray[Any, Any]], float], n: int, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap (95 %) over items.

    Args:
        statistic: Takes an array of n item indices (with repeats) and returns the statistic.
        n: How many items there are.
    """
    import numpy as np

    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, f"bootstrap-{resamples}")
    rng = np.random.default_rng(seed)
    value = float(statistic(np.arange(n)))
    draws = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)], dtype=float)
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (math.nan, math.nan)
    return Interval(value, float(low), float(high), n, f"bootstrap-{resamples}")


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact McNemar p-value: doubled binomial tail of the discordant pairs, at most 1."""
    n = wins + losses
    if n == 0:
        return 1.0
    tail: float = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2.0 * tail)


def paired_difference(a: Sequence[float], b: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of ``b - a`` over the same items with a percentile bootstrap interval."""
    import numpy as np

    d = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    return bootstrap(lambda i: float(d[i].mean()), len(d), resamples=resamples, seed=seed)


def minimum_detectable_effect(n: int, discordant: float, *, power: float = 0.8) -> float:
    """Smallest paired difference in proportions that n items detect at α = 0.05 (two-sided).

    Normal approximation of McNemar's test (Connor, Biometrics 43 (1987) 207-211), solved for the difference with the
    discordant share held at ``discordant``.
    """
    if n == 0:
        return 1.0
    z_beta = {0.8: 0.8416212335729143, 0.9: 1.2815515655446004}[power]
    low, high = 0.0, discordant
    for _ in range(60):
        mid = (low + high) / 2
        needed = (Z95 * math.sqrt(discordant) + z_beta * math.sqrt(max(discordant - mid * mid, 0.0))) ** 2 / max(
            mid * mid, 1e-12
        )
        low, high = (mid, high) if needed > n else (low, mid)
    return high
