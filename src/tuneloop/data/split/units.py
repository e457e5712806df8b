"""Which rows move together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuneloop.data.split.arrays import Array, Rows
from tuneloop.data.split.digests import NOBODY


@dataclass(slots=True)
class Units:
    """U sets of rows, in the order in which they are dealt: by stratum, then by place.

    at int32 [M]: the living rows, those of a unit side by side; first int32 [U + 1]: where a unit begins in ``at``;
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
    at, begins = _by_unit(rows, a, b)
    if not len(at):
        nothing = np.zeros(0, dtype=np.int32)
        return Units(at, np.zeros(1, dtype=np.int32), nothing, nothing)
    stratum = _usual(rows.strata.codes[at], begins)
    dealt = np.lexsort((mix(_tokens(rows, at, begins)), stratum)).astype(np.int32)
    sizes = np.diff(begins, append=np.int32(len(at)))[dealt]
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    moved = np.repeat(begins[dealt] - first[:-1], sizes)
    moved += np.arange(len(at), dtype=np.int32)
    pinned = np.minimum.reduceat(rows.pinned[at], begins)
    return Units(at[moved], first, stratum[dealt], pinned[dealt])


def _by_unit(rows: Rows, a: Array, b: Array) -> tuple[Array, Array]:
    """The living rows, those of a unit side by side, and where each unit begins (int32 both)."""
    at = np.flatnonzero(rows.alive).astype(np.int32)
    key = rows.key[at]
    edges = [(a, b), *(_same(values[at], key) for values in (rows.group, rows.column_group) if values is not None)]
    root = components(len(rows.hashes), np.concatenate([e[0] for e in edges]), np.concatenate([e[1] for e in edges]))
    unit = root[key]
    order = np.argsort(unit, kind="stable")
    return at[order], np.flatnonzero(np.diff(unit[order], prepend=np.int32(-1))).astype(np.int32)


def _tokens(rows: Rows, at: Array, begins: Array) -> Array:
    """The smallest hash of each unit (uint64 [U])."""
    token = rows.hashes[rows.key[at]]
    if rows.column_group is not None:
        named = rows.column_group[at]
        np.copyto(token, named, where=named != NOBODY)
    return np.minimum.reduceat(token, begins)


def _same(values: Array, key: Array) -> tuple[Array, Array]:
    """Edges between the first prompt of each group and its others."""
    mine = np.flatnonzero(values != NOBODY).astype(np.int32)
    order = mine[np.argsort(values[mine], kind="stable")]
    group, keys = values[order], key[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = group[1:] != group[:-1]
    return np.repeat(keys[new], np.diff(np.flatnonzero(new), append=len(keys))), keys


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
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z
