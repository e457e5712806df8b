"""All digests as numpy columns: some forty bytes a row, so that millions of rows fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tuneloop.data.config import DataConfig
from tuneloop.data.split.digests import NOBODY, strata

Array = NDArray[Any]


@dataclass(slots=True)
class Rows:
    """N rows with K different prompts.

    key int32 [N]: a prompt's place in the order of the hashes; hashes uint64 [K]; rank int8 [N]: 0 prescribed to test,
    1 to validation, 2 to neither; pinned int8 [N]; source int32 [N]; group and column_group uint64 [N] or None where no
    row has one; stratum int32 [N]; alive bool [N].
    """

    digests: pl.LazyFrame
    key: Array
    hashes: Array
    pinned: Array
    rank: Array
    source: Array
    group: Array | None
    column_group: Array | None
    strata: Strata
    alive: Array

    def column(self, name: str, at: Array) -> pl.DataFrame:
        """``at`` and a column of the digests, of a few rows, sorted by ``at``."""
        wanted = pl.Series(np.unique(at), dtype=pl.Int64)
        return self.digests.filter(pl.col("at").is_in(wanted.implode())).select("at", name).sort("at").collect()


@dataclass(slots=True)
class Strata:
    """The cells of all stratified fields, in the order of their values.

    names: of the fields; values: of each field, sorted; cells int32 [S, fields]: which value; codes int32 [N]: which cell.
    """

    names: list[str]
    values: list[list[str]]
    cells: Array
    codes: Array


def load(digests: pl.LazyFrame, config: DataConfig) -> Rows:
    """Collect column by column: what is not needed is never in memory."""
    key, hashes = _dense(_collect(digests, "key_high"), _collect(digests, "key_low"))
    pinned = _collect(digests, "pinned")
    return Rows(
        digests=digests,
        key=key,
        hashes=hashes,
        pinned=pinned,
        rank=np.minimum(pinned, 2),
        source=_collect(digests, "source"),
        group=_some(digests, "group"),
        column_group=_some(digests, "column_group"),
        strata=_strata(digests, strata(config), len(key)),
        alive=np.ones(len(key), dtype=bool),
    )


def _collect(digests: pl.LazyFrame, column: str | pl.Expr) -> Array:
    return digests.select(column).collect().to_series().to_numpy()


def _some(digests: pl.LazyFrame, column: str) -> Array | None:
    used = digests.select((pl.col(column) != NOBODY).any()).collect().item()
    return _collect(digests, column) if used else None


def _dense(high: Array, low: Array) -> tuple[Array, Array]:
    """128-bit hashes -> their place in sorted order (int32 [N]), and the high half of each different one (uint64 [K])."""
    order = np.lexsort((low, high)).astype(np.int32)
    high, low = high[order], low[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    key = np.empty(len(order), dtype=np.int32)
    key[order] = np.cumsum(first, dtype=np.int32) - 1
    return key, high[first]


def _strata(digests: pl.LazyFrame, names: list[str], n: int) -> Strata:
    codes, values = np.zeros(n, dtype=np.int64), list[list[str]]()
    cells = np.zeros((min(n, 1), 0), dtype=np.int32)
    for k in range(len(names)):
        column = f"stratum {k}"
        mine = digests.select(pl.col(column).unique()).collect().to_series().sort()
        values.append(mine.to_list())
        places = _collect(digests, pl.col(column).cast(pl.Enum(mine)).to_physical())
        joined, codes = np.unique(codes * max(len(mine), 1) + places, return_inverse=True)
        before, here = np.divmod(joined, max(len(mine), 1))
        cells = np.column_stack([cells[before], here.astype(np.int32)]) if n else np.zeros((0, k + 1), np.int32)
    return Strata(names, values, cells, codes.astype(np.int32))
