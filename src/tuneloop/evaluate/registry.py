"""The Scorer seam: (record, answer) -> score, by name. Third parties: entry points, group ``tuneloop.scorers``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from tuneloop.errors import ConfigError
from tuneloop.evaluate.answers import Labels
from tuneloop.types import Interval, Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

GROUP = "tuneloop.scorers"
MEASURED = ("perplexity", "latency", "tokens_per_s")
"""Metrics of the engine rather than of the answers' text."""


class Scorer(Protocol):
    """Judges one answer: a number, higher is better. Reasoning is already removed from ``answer``."""

    def __call__(self, record: Record, answer: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Task:
    """What a metric may know about the whole split."""

    records: Sequence[Record]
    labels: Labels | None
    not_labels: str
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Metric:
    """A number about a whole split.

    Attributes:
        score: (task) -> the scorer of single answers; None where single answers have no score.
        total: (task, answers) -> the estimate with its interval; None: the mean of the scores.
        unfit: (task) -> why the metric does not fit, or None.
    """

    score: Callable[[Task], Scorer] | None
    total: Callable[[Task, Sequence[str]], Interval] | None = None
    unfit: Callable[[Task], str | None] = lambda task: None


_metrics: dict[str, Metric] = {}


def register(name: str, metric: Metric | Scorer) -> None:
    """Make a metric known under a name; a plain scorer becomes the mean of its scores.

    Raises:
        ValueError: The name is taken.
    """
    if name in _metrics or name in MEASURED:
        raise ValueError(f"there already is a metric {name!r}")
    _metrics[name] = as_metric(metric)


def as_metric(found: Metric | Scorer) -> Metric:
    if isinstance(found, Metric):
        return found
    scorer = found
    return Metric(lambda task: scorer)


def _all() -> Mapping[str, Metric | None]:
    """Name -> metric; None for what an installed package brings and is loaded only when it is asked for."""
    from tuneloop.evaluate import scorers

    third = dict.fromkeys((point.name for point in entry_points(group=GROUP)), None)
    return {**third, **scorers.BUILT_IN, **_metrics}


def names() -> list[str]:
    """Every metric that can be asked for."""
    return sorted({*_all(), *MEASURED})


def find(name: str) -> Metric:
    """A metric by name.

    Raises:
        ConfigError: There is none of that name.
    """
    known = _all()
    if name not in known:
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
        raise ConfigError(f"there is no metric {name!r}", where="evaluate.metrics", hint=hint)
    if (metric := known[name]) is not None:
        return metric
    point = next(p for p in entry_points(group=GROUP) if p.name == name)
    return as_metric(point.load())


def check(metrics: Sequence[str]) -> None:
    """Raise ConfigError for an unknown name, before anything is computed."""
    for name in metrics:
        if name not in MEASURED:
            find(name)
