"""Free rows that stand in a prescribed test or validation source: by prompt, by group, or nearly.

A row prescribed to validation yields to one prescribed to test; rows prescribed to train, and free ones, to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tuneloop.data.split import similar
from tuneloop.data.split.arrays import Array, Rows
from tuneloop.data.split.digests import NOBODY, STEP

_KINDS = ["test", "validation"]
DROPS = {"at": pl.Int64, "step": pl.String, "reason": pl.String, "partner": pl.String}


@dataclass(slots=True)
class Drops:
    """Rows that the split leaves out, with step, reason and partner."""

    frames: list[pl.DataFrame] = field(default_factory=lambda: [pl.DataFrame(schema=DROPS)])

    def leak(self, rows: Rows, at: Array, owner: Array, how: pl.Expr, **facts: Array) -> None:
        """Rows ``at`` leak from the rows ``owner``; ``how`` is what the reason says before their id."""
        if not len(at):
            return
        rows.alive[at] = False
        ids = rows.column("id", owner).rename({"at": "owner", "id": "partner"})
        kinds = pl.Series(rows.rank[owner]).replace_strict([0, 1], _KINDS, return_dtype=pl.String)
        found = pl.DataFrame({"at": at.astype(np.int64), "owner": owner.astype(np.int64), "kind": kinds, **facts})
        reason = pl.format("leak: {} {} of the {} source", how, "partner", "kind")
        joined = found.join(ids, on="owner", how="left", maintain_order="left")
        self.frames.append(joined.select("at", step=pl.lit(STEP), reason=reason, partner="partner"))

    def frame(self) -> pl.DataFrame:
        return pl.concat(self.frames).sort("at")


def exact(rows: Rows, column: str | None, drops: Drops) -> None:
    """Drop what shares its prompt or its group with a row that has the better right to it."""
    if not (rows.rank < 2).any():
        return
    at, owner = _outranked(rows, rows.key)
    drops.leak(rows, at, owner, pl.lit("same prompt as"))
    for values, name in ((rows.column_group, column), (rows.group, "group")):
        if values is not None:
            belongs = np.flatnonzero(values != NOBODY)
            codes = np.full(len(values), -1, dtype=np.int64)
            codes[belongs] = np.unique(values[belongs], return_inverse=True)[1]
            at, owner = _outranked(rows, codes)
            drops.leak(rows, at, owner, pl.lit(f"same {name} as"))


def _outranked(rows: Rows, codes: Array) -> tuple[Array, Array]:
    """Living rows that share a code (-1: none) with a row of better rank, and the first of the best such rows."""
    holders = np.flatnonzero(rows.alive & (rows.rank < 2) & (codes >= 0))
    owner_of = np.full(int(codes.max(initial=-1)) + 1, -1, dtype=np.int64)
    best_last = holders[np.lexsort((holders, rows.rank[holders]))][::-1]
    owner_of[codes[best_last]] = best_last
    candidates = np.flatnonzero(rows.alive & (codes >= 0))
    owner = owner_of[codes[candidates]]
    hit = (owner >= 0) & (rows.rank[candidates] > rows.rank[owner])
    return candidates[hit], owner[hit]


def near(rows: Rows, threshold: float, drops: Drops) -> tuple[Array, Array]:
    """Drop what resembles a prompt of better right.

    Returns:
        Pairs of prompts of equal right (int [M] each) that resemble each other: they must stay in one split.
    """
    first = _first_rows(rows)
    at = np.sort(first[first >= 0])
    i, j, similarity = similar.pairs(rows.digests, at, threshold)
    a, b, rank = rows.key[at[i]], rows.key[at[j]], rows.rank[first]
    _drop_similar(rows, drops, (a, b, similarity), first, rank)
    same = rank[a] == rank[b]
    return a[same], b[same]


def _first_rows(rows: Rows) -> Array:
    """The first living row of each prompt (int64 [K]), -1 where none is left."""
    living = np.flatnonzero(rows.alive)[::-1]
    first = np.full(len(rows.hashes), -1, dtype=np.int64)
    first[rows.key[living]] = living
    return first


def _drop_similar(rows: Rows, drops: Drops, pairs: tuple[Array, Array, Array], first: Array, rank: Array) -> None:
    """Of each pair of unequal right, drop the rows of the lesser prompt, naming the most similar one that stays."""
    a, b, similarity = pairs
    better, worse = np.where(rank[a] < rank[b], a, b), np.where(rank[a] < rank[b], b, a)
    gone = np.zeros(len(first), dtype=bool)
    for right in (0, 1):
        use = np.flatnonzero((rank[better] == right) & (rank[worse] > right) & ~gone[better] & ~gone[worse])
        use = use[np.lexsort((first[better[use]], -similarity[use]))][::-1]  # the best is written last
        owner, how = np.full(len(first), -1, dtype=np.int64), np.zeros(len(first))
        owner[worse[use]], how[worse[use]] = first[better[use]], similarity[use]
        at = np.flatnonzero(rows.alive & (owner[rows.key] >= 0))
        key = rows.key[at]
        gone[worse[use]] = True
        words = pl.format("{} similar to", pl.col("similarity").round(2).cast(pl.String).str.pad_end(4, "0"))
        drops.leak(rows, at, owner[key], words, similarity=how[key])
