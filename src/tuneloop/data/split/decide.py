"""All digests -> one decision about every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from tuneloop.data.config import DataConfig
from tuneloop.data.split import arrays, leaks, sample
from tuneloop.data.split.arrays import Array, Rows
from tuneloop.data.split.balance import Balance, Classes, balance_report
from tuneloop.data.split.deal import DEALT, deal, free_ratios
from tuneloop.data.split.digests import FREE, LABEL, NOBODY
from tuneloop.data.split.units import Units, join
from tuneloop.errors import DataError
from tuneloop.types import SPLITS

_LARGE_ROWS, _LARGE_SHARE = 20, 0.05
_NONE = -1


@dataclass(frozen=True, slots=True)
class Decided:
    """What becomes of every row.

    Attributes:
        verdicts: at, split (null where dropped), step, reason, partner (null where kept): one line a row, in order.
        labels: The classes of the training split, sorted.
        notes: Warnings for the report.
        classes: Stratified field -> split -> value -> rows ('' where a row has none).
        balance: How far each split's classes are from those of all rows.
    """

    verdicts: pl.DataFrame
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    classes: Classes
    balance: tuple[Balance, ...]


def decide(digests: pl.LazyFrame, config: DataConfig) -> Decided:
    """Find leaks, take samples, and divide the rest.

    Args:
        digests: ``digest`` of all parts, one below the other, with ``at`` (Int64, from 0) in front.
        config: Ratios, seed, groups and strata; the same that the digests were made with.

    Raises:
        DataError: ``group_column`` or one of ``stratify_columns`` stands in no row.
    """
    splits, drops, classes, notes = _assign(digests, config)
    labels = _labels(digests, splits, classes)
    return Decided(_verdicts(splits, drops), labels, tuple(notes), classes, tuple(balance_report(classes)))


def _assign(digests: pl.LazyFrame, config: DataConfig) -> tuple[Array, pl.DataFrame, Classes, list[str]]:
    """The split of every row (int8 [N], an index into ``DEALT`` or ``_NONE``), the drops, the classes, the notes."""
    rows = arrays.load(digests, config)
    notes = _check_columns(rows, config)
    drops = leaks.Drops()
    leaks.exact(rows, config.group_column, drops)
    pairs = (np.zeros(0, dtype=np.int32),) * 2
    if config.near_leaks is not None:
        pairs = leaks.near(rows, config.near_leaks, drops)
    notes += sample.take(rows, config, drops)
    units = join(rows, *_living(rows, *pairs))
    notes += _large(units, config)
    splits = _spread(rows, units, deal(units, free_ratios(config)))
    assert _straddling(rows.key, splits) == 0, "a prompt stands in two splits"
    return splits, drops.frame(), _classes(rows, splits), notes


def _check_columns(rows: Rows, config: DataConfig) -> list[str]:
    hint = "compare the name with the columns of the files"
    for name, values in zip(rows.strata.names, rows.strata.values, strict=True):
        if name != LABEL and values == [""]:
            raise DataError(f"no row has a value in {name!r}", where="data.stratify_columns", hint=hint)
    if config.group_column is None or not len(rows.key):
        return []
    if rows.column_group is None:
        raise DataError(f"no row has a value in {config.group_column!r}", where="data.group_column", hint=hint)
    if alone := int((rows.column_group == NOBODY).sum()):
        return [f"{alone:,} rows have no {config.group_column}: each of them is a group of its own"]
    return []


def _living(rows: Rows, a: Array, b: Array) -> tuple[Array, Array]:
    """The pairs of prompts that are both still there."""
    here = np.zeros(len(rows.hashes), dtype=bool)
    here[rows.key[rows.alive]] = True
    both = here[a] & here[b]
    return a[both], b[both]


def _large(units: Units, config: DataConfig) -> list[str]:
    sizes = units.sizes[units.pinned == FREE]
    if sizes.max(initial=0) <= max(_LARGE_ROWS, _LARGE_SHARE * sizes.sum()):
        return []
    by = config.group_column or ("prompts that resemble each other" if config.near_leaks else "prompts")
    return [
        f"{sizes.max():,} of {sizes.sum():,} rows hang together by {by} and go into one split: "
        "the ratios cannot be met closely (a template, or a group that is too wide?)"
    ]


def _spread(rows: Rows, units: Units, dealt: Array) -> Array:
    """What was dealt to the units, row by row; a prescribed row stays where it is prescribed to."""
    splits = np.full(len(rows.key), _NONE, dtype=np.int8)
    splits[units.at] = np.repeat(dealt, units.sizes)
    prescribed = rows.alive & (rows.pinned != FREE)
    splits[prescribed] = rows.pinned[prescribed]
    return splits


def _straddling(key: Array, splits: Array) -> int:
    """How many prompts stand in more than one split."""
    lowest = np.full(int(key.max(initial=-1)) + 1, 3, dtype=np.int8)
    highest = np.full(len(lowest), _NONE, dtype=np.int8)
    kept = splits != _NONE
    np.minimum.at(lowest, key[kept], splits[kept])
    np.maximum.at(highest, key[kept], splits[kept])
    return int((lowest < highest).sum())


def _classes(rows: Rows, splits: Array) -> Classes:
    strata = rows.strata
    kept = splits != _NONE
    table = np.zeros((len(strata.cells), 3), dtype=np.int64)
    np.add.at(table, (strata.codes[kept], splits[kept]), 1)
    out: dict[str, Mapping[str, Mapping[str, int]]] = {}
    for k, (name, values) in enumerate(zip(strata.names, strata.values, strict=True)):
        sums = np.zeros((len(values), 3), dtype=np.int64)
        np.add.at(sums, strata.cells[:, k], table)
        columns = {split: sums[:, DEALT.index(split)].tolist() for split in SPLITS}
        out[name] = {s: {v: n for v, n in zip(values, c, strict=True) if n} for s, c in columns.items()}
    return out


def _labels(digests: pl.LazyFrame, splits: Array, classes: Classes) -> tuple[str, ...]:
    if LABEL in classes:
        return tuple(v for v in classes[LABEL]["train"] if v)
    train = pl.Series("train", splits == DEALT.index("train"))
    found = digests.select("label").collect().to_series().filter(train).drop_nulls().unique()
    return tuple(sorted(found))


def _verdicts(splits: Array, drops: pl.DataFrame) -> pl.DataFrame:
    names = pl.Series(splits).replace_strict([0, 1, 2], list(DEALT), default=None, return_dtype=pl.String)
    dense = pl.select(at=pl.int_range(len(splits), dtype=pl.Int64)).with_columns(split=names)
    return dense.join(drops, on="at", how="left", maintain_order="left")
