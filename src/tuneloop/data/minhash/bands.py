"""Sketches -> the pairs of rows that may be similar, in bounded time and memory.

A band is a few hashes of the sketch; rows that agree in a whole band are a bucket (Leskovec, Rajaraman, Ullman, "Mining
of Massive Datasets", section 3.4). Buckets are runs of equal keys after sorting, so nothing is ever held but one band
and the pairs found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from tuneloop.data.minhash.shingles import BOTH, Array, mix
from tuneloop.data.minhash.sketch import HASHES, Plan, band_columns, plan
from tuneloop.progress import Progress

WHOLE_BUCKET = 200
"""In a bucket up to this size all rows are compared with each other."""
LEADERS, NEIGHBOURS = 8, 2
"""In a larger one each row with the first ones, and with those next to it when sorted by the next band."""
PAIRS_BASE, PAIRS_PER_ROW = 4_000_000, 4
"""About so many pairs are kept at most; a band that might exceed them compares less. It takes a template for that, and it
bounds the time: an exact comparison costs some microseconds."""
_ROWS_A_PART, _PAIRS_A_PART = 8_192, 2_048
_KEYS_A_PASS = 20_000_000
"""Keys (8 bytes each) that are held at a time: reading the sketches once for several bands is cheaper."""
_PENDING = 4_000_000
_THREADS = 4
"""Bands that are sorted at a time (8 bytes a row each); numpy lets other threads run while it sorts."""

Runs = tuple[Array, Array, Array]


@dataclass(frozen=True, slots=True)
class Sketches:
    """Sketches [E, HASHES] of N rows; a row that is compared both ways has two of them, one after the other."""

    matrix: Array
    kind: Array
    """uint8 [E]: characters or words."""
    row: Array
    """int32 [E]: the row of each sketch, ascending."""

    @classmethod
    def read(cls, digests: pl.LazyFrame, place: Array | None = None, rows_a_read: int = 250_000) -> Sketches:
        """Collect the columns ``shingle`` and ``sketch``, a slice at a time.

        Args:
            place: int64 [N]: the row that each digest becomes; None: rows stay in their order.
        """
        ways = digests.select("shingle").collect()["shingle"].to_numpy()
        both = ways == BOTH
        place = np.arange(len(ways)) if place is None else place
        count = np.empty(len(ways), dtype=np.int64)
        count[place] = 1 + both
        first = (np.cumsum(count) - count)[place]
        kind = np.zeros(int(count.sum()), dtype=np.uint8)
        kind[first] = np.where(both, 0, ways)
        kind[first[both] + 1] = 1
        matrix = np.empty((len(kind), HASHES), dtype=np.uint8)
        for start in range(0, len(ways), rows_a_read):
            part = digests.select("sketch").slice(start, rows_a_read).collect()["sketch"]
            found = np.frombuffer(b"".join(part.to_list()), dtype=np.uint8).reshape(-1, HASHES)
            double = both[start : start + len(part)]
            source = np.arange(len(part)) + np.cumsum(double) - double
            target = first[start : start + len(part)]
            matrix[target] = found[source]
            matrix[target[double] + 1] = found[source[double] + 1]
        return cls(matrix, kind, np.repeat(np.arange(len(ways), dtype=np.int32), count))


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs of rows i < j (integers), ordered by j and then i, and how they are to be compared."""

    i: Array
    j: Array
    kind: Array
    largest: int
    """Rows of the largest bucket in which not all pairs were compared, or 0."""
    thinned: bool
    """Whether there were so many alike rows that bands compared less than they should."""

    def take(self, which: Array) -> Candidates:
        return Candidates(self.i[which], self.j[which], self.kind[which], self.largest, self.thinned)


def candidates(sketches: Sketches, threshold: float) -> Candidates:
    """Pairs that agree in a band, and in as many hashes as similar texts do."""
    rows = len(sketches.kind)
    scheme = plan(threshold, rows)
    found = _Found(sketches.matrix, scheme.agreeing, PAIRS_BASE + PAIRS_PER_ROW * rows)
    if rows > 1:
        with Progress("comparing sketches", scheme.bands, "bands") as progress:
            refining: Array | None = None
            for keys, runs in _sorted_ahead(_keys(sketches, scheme)):
                found.look(runs, keys if refining is None else refining)
                refining = keys
                progress.update()
        found.flush()
    i, j = found.pairs()
    pairs = Candidates(sketches.row[i], sketches.row[j], sketches.kind[i], found.largest, found.thinned)
    if len(sketches.row) == (sketches.row[-1] + 1 if rows else 0):
        return pairs
    return pairs.take(np.lexsort((pairs.kind, pairs.i, pairs.j)))


def _keys(sketches: Sketches, scheme: Plan) -> Iterator[Array]:
    """A 64-bit key of every row for one band after the other; several bands at a time are read from the sketches."""
    columns = band_columns(scheme.width, scheme.bands)
    rows = len(sketches.kind)
    at_once = max(1, _KEYS_A_PASS // rows)
    for first in range(0, len(columns), at_once):
        wanted = columns[first : first + at_once]
        keys = np.empty((len(wanted), rows), dtype=np.uint64)
        for start in range(0, rows, _ROWS_A_PART):  # a part of the sketches stays in the cache for all bands
            part = slice(start, min(start + _ROWS_A_PART, rows))
            matrix = sketches.matrix[part]
            for key, band in zip(keys[:, part], wanted, strict=True):
                key[:] = sketches.kind[part]
                for column in band:  # eight bits each
                    np.left_shift(key, np.uint64(8), out=key)
                    np.bitwise_xor(key, matrix[:, column], out=key)
                mix(key)
        yield from keys


def _sorted_ahead(bands: Iterator[Array]) -> Iterator[tuple[Array, Runs]]:
    """The keys of every band with their runs; the next bands are sorted by other threads meanwhile."""
    threads = min(_THREADS, pl.thread_pool_size())
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Array, Future[Runs]]] = deque()
        for keys in bands:
            waiting.append((keys, pool.submit(_runs, keys)))
            if len(waiting) > threads:
                done, runs = waiting.popleft()
                yield done, runs.result()
        for done, runs in waiting:
            yield done, runs.result()


class _Found:
    """The pairs of all bands so far, as codes ``j * rows + i``."""

    def __init__(self, matrix: Array, agreeing: int, most: int) -> None:
        self.codes = np.zeros(0, dtype=np.uint64)
        self.largest, self.thinned = 0, False
        self._matrix, self._agreeing, self._most = matrix, agreeing, most
        self._pending: list[Array] = []
        self._waiting = 0

    def look(self, runs: Runs, refining: Array) -> None:
        """Add the pairs of one band."""
        rows = np.uint64(len(refining))
        for i, j in self._pairs(runs, refining):
            low, high = np.minimum(i, j).astype(np.uint64), np.maximum(i, j).astype(np.uint64)
            self._pending.append(high * rows + low)
            self._waiting += len(i)
            if self._waiting > _PENDING:
                self.flush()

    def flush(self) -> None:
        """Keep the new pairs whose whole sketches agree enough."""
        if not self._pending:
            return
        new = np.sort(np.concatenate(self._pending))
        new = new[np.concatenate([[True], new[1:] != new[:-1]])]  # np.unique hashes, which is ten times slower
        self._pending, self._waiting = [], 0
        if len(self.codes):
            at = np.minimum(np.searchsorted(self.codes, new), len(self.codes) - 1)
            new = new[self.codes[at] != new]
        new = new[agreement(self._matrix, *self._split(new)) >= self._agreeing]
        self.codes = np.sort(np.concatenate([self.codes, new])) if len(self.codes) else new

    def pairs(self) -> tuple[Array, Array]:
        """All pairs i < j (int32), ordered by j and then i."""
        return self._split(self.codes)

    def _split(self, codes: Array) -> tuple[Array, Array]:
        j = codes // np.uint64(max(len(self._matrix), 1))
        return (codes - j * np.uint64(len(self._matrix))).astype(np.int32), j.astype(np.int32)

    def _pairs(self, runs: Runs, refining: Array) -> Iterator[tuple[Array, Array]]:
        order, start, size = runs
        whole = WHOLE_BUCKET
        room = self._most - len(self.codes)
        while whole > 1 and int((np.minimum(size, whole) * size).sum()) // 2 > room:
            whole //= 4
            self.thinned = True
        giant = size > whole
        if giant.any():
            self.largest = max(self.largest, int(size.max()))
            yield from self._sparse_pairs(order, start[giant], size[giant], refining)
        start, size = start[~giant], size[~giant]
        for distance in range(1, int(size.max(initial=0))):
            start, size = start[size > distance], size[size > distance]
            at = np.repeat(start, size - distance) + _counting(size - distance)
            yield order[at], order[at + distance]

    def _sparse_pairs(self, order: Array, start: Array, size: Array, refining: Array) -> Iterator[tuple[Array, Array]]:
        """Each row of large buckets with the first rows, and with those next to it when sorted by the next band."""
        rows = int(size.sum())
        room = self._most - len(self.codes)
        leaders = min(LEADERS, max(1, room // (4 * rows)))  # the other bands need room as well
        self.thinned |= leaders < LEADERS or room < 0
        if room < 0:
            return
        nth, first = _counting(size), np.repeat(start, size)
        members = order[first + nth]
        for leader in range(leaders):
            later = nth > leader
            yield order[first[later] + leader], members[later]
        if leaders == LEADERS:
            near = np.lexsort((refining[members], first))
            members, first = members[near], first[near]
            for distance in range(1, NEIGHBOURS + 1):
                same = first[distance:] == first[:-distance]
                yield members[:-distance][same], members[distance:][same]


def _runs(keys: Array) -> Runs:
    """Rows that share their key with another, sorted by key and then number; start and size of every run of equal keys.

    The lowest bits of a key make room for the row number, so that plain values are sorted: many times faster than
    sorting indices. With 5 million rows 41 bits of the key remain: about six accidental pairs a band.
    """
    bits = np.uint64(max(len(keys) - 1, 1).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    packed = np.sort((keys & ~low) | np.arange(len(keys), dtype=np.uint64))
    same = np.flatnonzero((packed[1:] ^ packed[:-1]) <= low)  # equal to the next
    breaks = np.flatnonzero(np.diff(same) != 1)
    first = np.concatenate([same[:1], same[breaks + 1]])
    size = np.concatenate([same[breaks], same[-1:]]) - first + 2
    members = np.repeat(first, size) + _counting(size)
    return (packed[members] & low).astype(np.int64), np.cumsum(size) - size, size


def _counting(sizes: Array) -> Array:
    """0, 1, ... within each of the ranges that follow each other."""
    ends = np.cumsum(sizes)
    return np.asarray(np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes))


def agreement(matrix: Array, i: Array, j: Array) -> Array:
    """In how many places the sketches of each pair agree."""
    words = matrix.view(np.uint64)
    out = np.empty(len(i), dtype=np.int64)
    for start in range(0, len(i), _PAIRS_A_PART):
        part = slice(start, start + _PAIRS_A_PART)
        one, other = words.take(i[part], axis=0), words.take(j[part], axis=0)
        same = np.add.reduce((one.view(np.uint8) == other.view(np.uint8)).view(np.uint64), axis=1)
        # every byte of the sum of eight words is at most eight; the multiplication adds up the eight bytes
        out[part] = (same * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return out
