"""The statistics of two score lists over the same items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuneloop.compare.config import CompareConfig
from tuneloop.errors import DataError
from tuneloop.stats import bootstrap_sums, mcnemar_exact, paired_difference, sign_flip, tango, wilson
from tuneloop.types import Interval


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on one metric. ``difference`` is candidate minus baseline; wins are the candidate's.

    ``p_value`` is two-sided, of "there is no difference"; ``test`` says which test. ``bootstrap`` is the paired
    percentile interval of the same difference, for those who want to see both.
    """

    metric: str
    n: int
    wins: int
    ties: int
    losses: int
    baseline: Interval
    candidate: Interval
    difference: Interval
    bootstrap: Interval
    p_value: float
    test: str
    binary: bool


def paired(metric: str, baseline: Mapping[str, float], candidate: Mapping[str, float], config: CompareConfig) -> Paired:
    """Compare item by item.

    Args:
        metric: Name, for the record.
        baseline: Item id -> score of the baseline.
        candidate: Item id -> score of the candidate, for the same ids.
        config: Margin, error rate, draws.

    Raises:
        DataError: The two were not measured on the same items, or on none.
    """
    _same_items(metric, baseline, candidate)
    a, b = list(baseline.values()), [candidate[i] for i in baseline]
    d = [y - x for x, y in zip(a, b, strict=True)]
    n, binary = len(d), all(x in (0.0, 1.0) for x in (*a, *b))
    margin = 0.0 if binary else config.tie_margin
    wins, losses = sum(x > margin for x in d), sum(x < -margin for x in d)
    confidence = 1 - config.alpha
    resampled = paired_difference(a, b, resamples=config.resamples, seed=config.seed, confidence=confidence)
    if binary:
        difference, p, test = (
            tango(wins, losses, n, confidence=confidence),
            mcnemar_exact(wins, losses),
            "exact McNemar",
        )
    else:
        difference = _guarded(d, resampled, max((*a, *b, 1.0)) - min((*a, *b, 0.0)), config)
        p, test = sign_flip(a, b, resamples=config.resamples, seed=config.seed), "sign-flip permutation"
    return Paired(
        metric=metric,
        n=n,
        wins=wins,
        ties=n - wins - losses,
        losses=losses,
        baseline=_mean(a, binary, config),
        candidate=_mean(b, binary, config),
        difference=difference,
        bootstrap=resampled,
        p_value=p,
        test=test,
        binary=binary,
    )


def _guarded(d: list[float], plain: Interval, span: float, config: CompareConfig) -> Interval:
    """The bootstrap with one made-up item at either end of what a difference can be.

    Items that all agree resample to an interval without width, as if n answers could prove equality. One pseudo-item on
    each side keeps the width that n items deserve (the adjustment of Bonett & Price, Stat Med 31 (2012) 1489-1497).
    """
    padded = [*d, span, -span]
    wide = paired_difference(
        [0.0] * len(padded), padded, resamples=config.resamples, seed=config.seed, confidence=plain.confidence
    )
    low, high = min(wide.low, plain.value), max(wide.high, plain.value)
    return Interval(plain.value, low, high, plain.n, f"{plain.method}-padded", plain.confidence)


def _mean(values: list[float], binary: bool, config: CompareConfig) -> Interval:
    import numpy as np

    if binary:
        return wilson(int(sum(values)), len(values))
    rows = np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)
    return bootstrap_sums(rows, lambda s: s[:, 0] / s[:, 1], resamples=min(config.resamples, 2000), seed=config.seed)


def _same_items(metric: str, baseline: Mapping[str, float], candidate: Mapping[str, float]) -> None:
    if baseline.keys() != candidate.keys():
        only_a, only_b = sorted(baseline.keys() - candidate.keys()), sorted(candidate.keys() - baseline.keys())
        raise DataError(
            f"the two models were not asked the same questions: {len(only_a)} only the baseline, {len(only_b)} only the "
            f"candidate, e.g. {(only_a + only_b)[0]}",
            where=metric,
            hint="evaluate both on the same split with the same evaluate.limit and evaluate.seed",
        )
    if not baseline:
        raise DataError("there are no scores to compare", where=metric, hint="evaluate both models first")
