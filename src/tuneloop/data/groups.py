"""Union-find: which rows belong together."""

from __future__ import annotations

from collections.abc import Sequence


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
