"""Rows that say almost the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from tuneloop.data.frame import VERDICTS
from tuneloop.data.groups import components
from tuneloop.data.minhash import (
    LOWEST_THRESHOLD,
    Candidates,
    KeepFirst,
    Shingling,
    Sketches,
    candidates,
    compare,
    digest,
)
from tuneloop.data.minhash.shingles import Unit
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.digests import judging_order, pick, places
from tuneloop.data.steps.exact import compared_text
from tuneloop.data.steps.judging import Judge, facts

Array = NDArray[Any]
_TEXT_BYTES = 100_000_000
"""Texts that are held at a time: those of whole clusters of alike rows, one lot after the other."""


class NearDuplicates(WholeBase):
    """Drops a row whose text is at least ``threshold`` similar to an earlier kept row.

    Every drop is justified by a kept partner, not by a chain of similar rows: chains delete whole corpora. Two similar
    rows of different classes are both kept (that difference is what a classifier must learn) and go into the same
    split. Rows that resemble a row of a prescribed test or validation source are leaks and are dropped.

    Sketches only propose pairs; the similarity is that of the shingles themselves. A pair at the threshold is overlooked
    with a probability of at most 0.0025, one well above it almost never.
    """

    name: ClassVar[str] = "near_duplicates"

    threshold: float = Field(default=0.8, ge=LOWEST_THRESHOLD, le=1.0)
    """Jaccard similarity of the shingles from which two texts count as the same."""

    shingle: Unit = "auto"
    """What is compared: characters, words, or auto (words in texts of 1,500 characters and more that have spaces)."""

    shingle_size: int = Field(default=0, ge=0, le=50)
    """Characters or words in a shingle; 0: 5 characters or 3 words."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _size_of_what(self) -> NearDuplicates:
        if self.shingle == "auto" and self.shingle_size:
            raise ValueError("shingle_size needs a unit\nhint: shingle: characters  or  shingle: words")
        return self

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    @property
    def _shingling(self) -> Shingling:
        return Shingling(self.shingle, self.shingle_size)

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        return facts(frame).hstack(digest(compared_text(frame), self._shingling))

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        order = judging_order(digests)
        pairs = candidates(Sketches.read(digests, places(order)), self.threshold)
        self._warn(pairs)
        found = [self._judge(*lot) for lot in _lots(digests, order, pairs)]
        return pl.concat([pl.DataFrame(schema=dict(VERDICTS)), *found]).sort("at")

    def _warn(self, pairs: Candidates) -> None:
        if pairs.largest:
            self._notes.append(
                f"{pairs.largest:,} rows look alike to the sketch; in groups that large only neighbours were compared: "
                "is it a template or boilerplate?"
            )
        if pairs.thinned:
            self._notes.append(
                "so many rows look alike that not all of their pairs were compared, and duplicates among them may remain: "
                "cut the template or boilerplate out, or raise the threshold"
            )

    def _judge(self, rows: pl.DataFrame, pairs: Candidates) -> pl.DataFrame:
        """Verdicts about rows in judging order; pairs are positions in them."""
        judge, comparison = Judge(rows), compare(rows["text"], self._shingling)
        dropping, rivals = judge.relations(pairs.i, pairs.j)
        found = KeepFirst(pairs.take(dropping), rows.height, self.threshold, comparison)
        both = pairs.take(rivals & ~found.dropped[pairs.i] & ~found.dropped[pairs.j])
        both = both.take(comparison(both.i, both.j, both.kind) >= self.threshold)
        return judge.verdicts("near-duplicate", found.partner, found.similarity, both.i, both.j)


def _lots(digests: pl.LazyFrame, order: Array, pairs: Candidates) -> Iterator[tuple[pl.DataFrame, Candidates]]:
    """Clusters of alike rows with all that judging them needs, as many at a time as fit in memory.

    Args:
        order: int64 [N]: the digest of each row in judging order.
    """
    rows, local = np.unique(np.concatenate([pairs.i, pairs.j]), return_inverse=True)
    i, j = local[: len(pairs.i)], local[len(pairs.i) :]
    lot = np.zeros(len(rows), dtype=np.int64)
    size = digests.select(pl.col("text").str.len_bytes()).collect()["text"].to_numpy()[order[rows]]
    if size.sum(dtype=np.int64) > _TEXT_BYTES:
        cluster, member = np.unique(components(i, j, len(rows)), return_inverse=True)
        bytes_ = np.bincount(member, weights=size, minlength=len(cluster))
        lot = (np.cumsum(bytes_) // _TEXT_BYTES).astype(np.int64)[member]
    position = np.empty(len(rows), dtype=np.int64)
    for k in np.unique(lot):
        mine = np.flatnonzero(lot == k)
        position[mine] = np.arange(len(mine))
        which = lot[i] == k
        inside = Candidates(position[i[which]], position[j[which]], pairs.kind[which], 0, False)
        yield pick(digests.drop("sketch"), order[rows[mine]]), inside
