"""Classes with too few rows to be learned and judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import polars as pl
from pydantic import Field, PrivateAttr

from tuneloop.data.steps import WholeBase

_NAMED = 8


class MergeRareClasses(WholeBase):
    """Puts the rows of rare classes into one class; the history of each row keeps the class it had.

    Below seven rows a class has, on average, no row in a split of 15 % (1 / 0.15 = 6.7): the shares of the splits cannot
    match those of the whole, and nobody can say how well the class was learned.
    """

    name: ClassVar[str] = "merge_rare_classes"

    min_rows: int = Field(default=7, ge=2)
    """Classes with fewer rows are merged."""

    into: str = Field(default="other", min_length=1)
    """The class that takes them; one that exists already keeps its rows."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select("label")

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        sizes = digests.drop_nulls("label").group_by("label").agg(rows=pl.len()).collect().sort("rows", "label")
        rare = sizes.filter((pl.col("rows") < self.min_rows) & (pl.col("label") != self.into))
        self._say(sizes, rare)
        mine = digests.filter(pl.col("label").is_in(rare["label"].implode())).select("at").sort("at").collect()
        nothing = pl.lit(None, dtype=pl.String)
        return mine.select("at", reason=nothing, partner=nothing, group=nothing, label=pl.lit(self.into))

    def _say(self, sizes: pl.DataFrame, rare: pl.DataFrame) -> None:
        if not rare.height:
            return
        merged = int(rare["rows"].sum())
        shown = ", ".join(f"{name!r} ({rows})" for name, rows in rare.head(_NAMED).iter_rows())
        more = f" and {rare.height - _NAMED:,} more" if rare.height > _NAMED else ""
        self._notes.append(f"{merged:,} rows of {rare.height:,} rare classes are now {self.into!r}: {shown}{more}")
        total = merged + int(sizes.filter(pl.col("label") == self.into)["rows"].sum())
        if total < self.min_rows:
            self._notes.append(f"{self.into!r} has {total:,} rows in all, still fewer than {self.min_rows}")
