"""The stratified sample that a source asks for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import polars as pl

from tuneloop.data.config import DataConfig
from tuneloop.data.split.arrays import Array, Rows
from tuneloop.data.split.digests import SAMPLE
from tuneloop.data.split.leaks import Drops

Name = TypeVar("Name", bound=Hashable)


def take(rows: Rows, config: DataConfig, drops: Drops) -> list[str]:
    """Leave out what a source's sample does not take; returns warnings about sources that have too few rows."""
    warnings = []
    for index, source in enumerate(config.sources):
        if source.rows is None:
            continue
        mine = np.flatnonzero(rows.alive & (rows.source == index))
        if len(mine) < source.rows:
            warnings.append(f"{source.title} has {len(mine):,} clean rows, fewer than the {source.rows:,} asked for")
        if len(mine) <= source.rows:
            continue
        out = np.sort(_surplus(rows, mine, source.rows))
        rows.alive[out] = False
        reason = f"not sampled: {source.rows:,} of {len(mine):,} rows"
        drops.frames.append(
            pl.select(at=pl.Series(out, dtype=pl.Int64)).with_columns(
                step=pl.lit(SAMPLE), reason=pl.lit(reason), partner=pl.lit(None, dtype=pl.String)
            )
        )
    return warnings


def _surplus(rows: Rows, mine: Array, wanted: int) -> Array:
    """The rows beyond each stratum's quota, in the order in which rows are dealt."""
    stratum = rows.strata.codes[mine]
    order = np.lexsort((mine, rows.key[mine], stratum))
    stratum, mine = stratum[order], mine[order]
    names, first, sizes = np.unique(stratum, return_index=True, return_counts=True)
    quota = apportion(dict(zip(names.tolist(), sizes.tolist(), strict=True)), wanted)
    seats = np.array([quota[name] for name in names.tolist()])
    nth = np.arange(len(mine)) - np.repeat(first, sizes)
    return mine[nth >= np.repeat(seats, sizes)]


def apportion(sizes: Mapping[Name, int], total: int) -> dict[Name, int]:
    """Divide ``total`` over strata in proportion to their sizes, by largest remainder (Hamilton); ties by name."""
    whole = sum(sizes.values())
    exact = {name: size * total / whole for name, size in sizes.items()}
    seats = {name: int(share) for name, share in exact.items()}

    def need(name: Name) -> Any:
        return seats[name] - exact[name], name

    for name in sorted(exact, key=need)[: total - sum(seats.values())]:
        seats[name] += 1
    return seats
