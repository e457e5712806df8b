"""Union-find: which rows belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Groups:
    """Disjoint sets of row positions; the smallest position of a set represents it."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def root(self, row: int) -> int:
        while (up := self._parent.get(row, row)) != row:
            self._parent[row] = row = self._parent.get(up, up)
        return row

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.root(a), self.root(b)))
        self._parent[a] = a
        self._parent[b] = a

    def names(self, ids: Sequence[str]) -> list[str | None]:
        """The id of each row's representative; None for rows that belong to nobody."""
        return [ids[self.root(k)] if k in self._parent else None for k in range(len(ids))]


def components(i: NDArray[Any], j: NDArray[Any], rows: int) -> NDArray[Any]:
    """The smallest position that each row is connected with: ``Groups`` for millions of pairs at a time.

    Every round hooks the larger of two roots onto the smaller and then halves the paths until they are gone; rounds grow
    with the logarithm of the longest chain (Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", 1982).

    Args:
        i, j: Integers [P], the pairs that are connected.

    Returns:
        int64 [rows].
    """
    import numpy as np

    root = np.arange(rows, dtype=np.int64)
    while len(i):
        a, b = root[i], root[j]
        apart = a != b
        i, j, a, b = i[apart], j[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, up := root[root]):
            root = up
    return root
