"""Which rows move together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuneloop.data.split.arrays import Array, Rows
from tuneloop.data.split.digests import FREE, NOBODY


@dataclass(slots=True)
class Units:
    """U sets of rows, in the order in which they are dealt: by stratum, then by place.

    at int64 [M]: the living rows, those of a unit side by side; first int64 [U + 1]: where a unit begins in ``at``;
    stratum int32 [U]; pinned int8 [U]: the split that a row of the unit is prescribed to, or ``FREE``.
    """

    at: Array
    first: Array
    stratum: Array
    pinned: Array

    @property
    def sizes(self) -> Array:
        return np.diff(self.first)


def join(rows: Rows, a: Array, b: Array) -> Units:
    """Rows with the same prompt, the same group, or prompts that are paired (``a`` with ``b``), are one unit.

    A unit's stratum is that of most of its rows. Its place is a hash of the smallest hash among its rows' groups and
    prompts: it does not depend on how many rows there are, or large units would crowd at the front.
    """
    at = np.flatnonzero(rows.alive)
    key = rows.key[at]
    edges = [(a, b), *(_same(values[at], key) for values in (rows.group, rows.column_group) if values is not None)]
    root = components(len(rows.hashes), np.concatenate([e[0] for e in edges]), np.concatenate([e[1] for e in edges]))
    unit = root[key]
    order = np.lexsort((at, unit))
    at, unit = at[order], unit[order]
    begins = np.flatnonzero(np.diff(unit, prepend=-1)) if len(unit) else np.zeros(0, dtype=np.int64)
    if not len(begins):
        nothing = np.zeros(0, dtype=np.int64)
        return Units(at, np.zeros(1, dtype=np.int64), nothing, nothing)
    token = rows.hashes[rows.key[at]]
    if rows.column_group is not None:
        token = np.where(rows.column_group[at] != NOBODY, rows.column_group[at], token)
    place = mix(np.minimum.reduceat(token, begins))
    stratum = _usual(rows.strata.codes[at], begins)
    pinned = np.minimum.reduceat(rows.pinned[at], begins)
    assert pinned.max() <= FREE
    dealt = np.lexsort((place, stratum))
    sizes = np.diff(np.append(begins, len(at)))
    first = np.concatenate([[0], np.cumsum(sizes[dealt])])
    moved = np.repeat(begins[dealt] - first[:-1], sizes[dealt]) + np.arange(len(at))
    return Units(at[moved], first, stratum[dealt], pinned[dealt])


def _same(values: Array, key: Array) -> tuple[Array, Array]:
    """Edges between the first prompt of each group and its others."""
    mine = np.flatnonzero(values != NOBODY)
    order = mine[np.lexsort((key[mine], values[mine]))]
    group, keys = values[order], key[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = group[1:] != group[:-1]
    return keys[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(keys) else keys, keys


def components(n: int, a: Array, b: Array) -> Array:
    """The smallest node of each node's connected component (int32 [n]), from edges a[k] - b[k].

    Roots hook onto smaller roots, and every path is halved until it has length one (Shiloach & Vishkin, "An O(log n)
    parallel connectivity algorithm", J. Algorithms 3, 1982): a handful of passes over arrays, no loop over nodes.
    """
    root = np.arange(n, dtype=np.int32)
    while True:
        ra, rb = root[a], root[b]
        apart = ra != rb
        if not apart.any():
            return root
        a, b = a[apart], b[apart]
        np.minimum.at(root, np.maximum(ra, rb)[apart], np.minimum(ra, rb)[apart])
        while not np.array_equal(up := root[root], root):
            root = up


def _usual(stratum: Array, begins: Array) -> Array:
    """The most frequent stratum of each unit; of equally frequent ones the first."""
    sizes = np.diff(np.append(begins, len(stratum)))
    out = stratum[begins]
    mixed = np.flatnonzero(np.minimum.reduceat(stratum, begins) != np.maximum.reduceat(stratum, begins))
    if not len(mixed):
        return out
    is_mixed = np.zeros(len(begins), dtype=bool)
    is_mixed[mixed] = True
    unit, inside = np.repeat(np.arange(len(mixed)), sizes[mixed]), np.repeat(is_mixed, sizes)
    width = int(stratum.max()) + 1
    codes, votes = np.unique(unit * width + stratum[inside], return_counts=True)
    whose, which = np.divmod(codes, width)
    best_last = np.lexsort((which, -votes))[::-1]
    usual = np.empty(len(mixed), dtype=out.dtype)
    usual[whose[best_last]] = which[best_last]
    out[mixed] = usual
    return out


def mix(values: Array) -> Array:
    """The finaliser of splitmix64: a bijection of 64 bits (Steele, Lea & Flood, OOPSLA 2014, figure 17)."""
    z = values.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
