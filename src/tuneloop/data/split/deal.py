"""Units -> splits, class by class, so that the ratios hold in every class and over all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tuneloop.data.config import DataConfig
from tuneloop.data.split.arrays import Array
from tuneloop.data.split.digests import FREE
from tuneloop.data.split.units import Units
from tuneloop.types import Split

DEALT: tuple[Split, ...] = ("test", "validation", "train")
"""Dealt in this order from the front of the hash order, so that the test set changes least when rows are added."""
_TEST, _VALIDATION, _TRAIN = range(3)


def free_ratios(config: DataConfig) -> dict[Split, float]:
    """The ratios over the splits that no source prescribes."""
    ratios: dict[Split, float] = {
        "test": config.test_ratio,
        "validation": config.validation_ratio,
        "train": config.train_ratio,
    }
    prescribed = {source.split for source in config.sources} & {"test", "validation"}
    kept = {split: 0.0 if split in prescribed else ratio for split, ratio in ratios.items()}
    return {split: ratio / sum(kept.values()) for split, ratio in kept.items()}


def deal(units: Units, ratios: Mapping[Split, float]) -> Array:
    """Index into ``DEALT`` of each unit (int8 [U]).

    What rounding, or a large group, takes from a split in one class it gives back in a later one, so the totals fit. A
    class always has a unit in train; one that is a single unit trains, and is not made up for elsewhere.
    """
    out = np.where(units.pinned == FREE, _TRAIN, units.pinned).astype(np.int8)
    free = np.flatnonzero(units.pinned == FREE)
    _, begins, counts = np.unique(units.stratum[free], return_index=True, return_counts=True)
    sizes = units.sizes[free]
    owed = np.zeros(3)
    share = np.array([ratios[split] for split in DEALT])
    for begin, count in zip(begins[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        mine = sizes[begin : begin + count]
        wanted = share * mine.sum() + owed
        borders = _borders(mine, round_to(wanted, int(mine.sum())))
        out[free[begin : begin + borders[0]]] = _TEST
        out[free[begin + borders[0] : begin + borders[1]]] = _VALIDATION
        ends = np.cumsum(np.concatenate([[0], mine]))[[0, *borders, count]]
        owed = wanted - np.diff(ends)
    return out


def _borders(sizes: Array, quota: Array) -> tuple[int, int]:
    """How many units test takes, and test and validation together: a unit goes where its middle falls."""
    ends = np.cumsum(sizes)
    middle = ends - sizes / 2
    test = int(np.searchsorted(middle, quota[_TEST]))
    filled = ends[test - 1] if test else 0
    both = test + int(np.searchsorted(middle[test:] - filled, quota[_VALIDATION]))
    both = min(both, len(sizes) - 1)
    return min(test, both), both


def round_to(wanted: Array, total: int) -> Array:
    """Whole numbers >= 0 that add up to ``total``, nearest to what is wanted (float [3], which adds up to it too)."""
    quota = np.maximum(np.floor(wanted), 0).astype(np.int64)
    short = total - int(quota.sum())
    by_need = np.argsort(quota - wanted, kind="stable")
    for k in range(short):
        quota[by_need[k % len(quota)]] += 1
    while (over := int(quota.sum()) - total) > 0:
        most = int(np.argmax(np.where(quota > 0, quota - wanted, -np.inf)))
        excess = int(quota[most] - wanted[most])
        quota[most] -= min(over, max(1, excess), int(quota[most]))
    return quota
