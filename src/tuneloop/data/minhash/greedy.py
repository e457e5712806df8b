"""Candidate pairs -> which rows are kept.

The rule, in one sentence: rows are looked at in order, and a row goes when it is similar to an earlier row that was
kept. Never because of a chain of rows that were themselves dropped: chains delete whole corpora.
"""

from __future__ import annotations

import numpy as np

from tuneloop.data.minhash.bands import Candidates
from tuneloop.data.minhash.exact import Compare
from tuneloop.data.minhash.shingles import Array
from tuneloop.progress import Progress

_OPEN, _KEPT, _DROPPED = 0, 1, 2
_ROUNDS = 40
"""After so many rounds what is left (long chains of similar rows) is decided row by row."""


class KeepFirst:
    """The rule, applied to pairs of ``rows`` rows ordered by j and then i.

    Most rows of a large cluster resemble its first row, so pairs are compared a few at a time, and only while it matters:
    the earlier row is kept and the later one is still undecided.
    """

    def __init__(self, pairs: Candidates, rows: int, threshold: float, compare: Compare) -> None:
        self.partner = np.full(rows, -1, dtype=np.int64)
        """The kept row because of which a row goes, or -1."""
        self.similarity = np.zeros(rows)
        self._threshold, self._compare = threshold, compare
        self._state = np.full(rows, _KEPT, dtype=np.int8)
        self._state[pairs.j] = _OPEN
        with Progress("comparing similar rows", len(pairs.j), "pairs") as progress:
            width = 1
            for _ in range(_ROUNDS):
                if not len(pairs.j):
                    break
                before = len(pairs.j)
                pairs = self._round(pairs, width)
                progress.update(before - len(pairs.j))
                width *= 2
            self._finish(pairs)
            progress.update(len(pairs.j))

    @property
    def dropped(self) -> Array:
        """bool [rows]"""
        return self.partner >= 0

    def _round(self, pairs: Candidates, width: int) -> Candidates:
        """Compare up to ``width`` pairs of each undecided row, and return the pairs that may still matter."""
        starts = np.flatnonzero(np.concatenate([[True], pairs.j[1:] != pairs.j[:-1]]))
        sizes = np.diff(starts, append=len(pairs.j))
        waits = np.cumsum(self._state[pairs.i] == _OPEN, dtype=np.int32)
        before = np.repeat(waits[starts] - (self._state[pairs.i[starts]] == _OPEN), sizes)
        nth = np.arange(len(pairs.j), dtype=np.int32) - np.repeat(starts.astype(np.int32), sizes)
        ready = (waits == before) & (nth < width)  # every earlier row that it might go for is decided
        self._drop(pairs.take(ready))
        state = self._state
        left = pairs.take(~ready & (state[pairs.i] != _DROPPED) & (state[pairs.j] == _OPEN))
        done = pairs.j[state[pairs.j] == _OPEN]
        state[np.setdiff1d(done, left.j)] = _KEPT
        return left

    def _drop(self, pairs: Candidates) -> None:
        """Drop the later rows of similar pairs; each for the first kept row that it resembles."""
        similarity = self._compare(pairs.i, pairs.j, pairs.kind)
        hit = np.flatnonzero(similarity >= self._threshold)
        rows, first = np.unique(pairs.j[hit], return_index=True)
        self.partner[rows] = pairs.i[hit[first]]
        self.similarity[rows] = similarity[hit[first]]
        self._state[rows] = _DROPPED

    def _finish(self, pairs: Candidates) -> None:
        """The rule as it stands, one pair after the other."""
        similarity = self._compare(pairs.i, pairs.j, pairs.kind)
        hit = np.flatnonzero(similarity >= self._threshold)
        partner = self.partner
        for k, i, j in zip(hit.tolist(), pairs.i[hit].tolist(), pairs.j[hit].tolist(), strict=True):
            if partner[i] < 0 and partner[j] < 0:
                partner[j], self.similarity[j] = i, similarity[k]
