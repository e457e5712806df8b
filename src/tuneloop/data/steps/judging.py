"""What similar rows mean for each other: the rules that near and semantic duplicates share."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tuneloop.data.frame import is_classification
from tuneloop.data.groups import components
from tuneloop.data.steps.exact import FREE, rank

Array = NDArray[Any]


def facts(frame: pl.DataFrame) -> pl.DataFrame:
    """What a digest carries for the judge: id, label, pinned, kind (the class is the answer), rank."""
    return frame.select("id", "label", "pinned", kind=is_classification(frame), rank=rank(frame))


class Judge:
    """Rules about pairs of similar rows i < j of ``rows``, which stand in judging order (with ``at`` and ``facts``)."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows
        self._ranks, self._kinds = rows["rank"].to_numpy(), rows["kind"].to_numpy()
        self._labels = rows["label"].rank("dense").fill_null(0).to_numpy()

    def relations(self, i: Array, j: Array) -> tuple[Array, Array]:
        """Whether j goes because of i, and whether both stay but in one split (classes differ); neither: no matter.

        Rows of different kinds are never compared, nor are rows of one prescribed source.
        """
        free = self._ranks[j] == FREE
        comparable = (self._kinds[i] == self._kinds[j]) & (free | (self._ranks[i] != self._ranks[j]))
        rivals = self._kinds[i] & (self._labels[i] != self._labels[j]) & (self._ranks[i] == FREE)
        return comparable & ~rivals, comparable & rivals

    def verdicts(self, category: str, partner: Array, similarity: Array, i: Array, j: Array) -> pl.DataFrame:
        """Verdicts about the rows that something is decided about.

        Args:
            category: What a dropped row is.
            partner: int64 [rows], the kept row because of which a row goes, or -1.
            similarity: float64 [rows], how similar to it.
            i, j: Pairs of kept rows that must stay together.
        """
        ids = self.rows["id"]
        gone = pl.Series(partner >= 0)
        group = components(i, j, len(ids))
        together = np.zeros(len(ids), dtype=bool)
        together[i] = together[j] = True
        verdicts = self.rows.select(
            "at",
            reason=pl.when(gone).then(self._reasons(category, partner, similarity)),
            partner=pl.when(gone).then(ids.gather(np.maximum(partner, 0))),
            group=pl.when(pl.Series(together)).then(ids.gather(group)),
        )
        return verdicts.filter(pl.col("reason").is_not_null() | pl.col("group").is_not_null())

    def _reasons(self, category: str, partner: Array, similarity: Array) -> pl.Series:
        hundredths = pl.Series(np.round(similarity * 100).astype(np.int64))
        owners = self.rows.select("id", "rank", "pinned")[np.maximum(partner, 0)]
        columns = owners.with_columns(whole=hundredths // 100, rest=(hundredths % 100).cast(pl.String).str.zfill(2))
        how = pl.format("{}.{} similar to {}", "whole", "rest", "id")
        leak = pl.format("leak: {} of the {} source", how, "pinned")
        reason = pl.when(pl.col("rank") < FREE).then(leak).otherwise(pl.format("{}: {}", pl.lit(category), how))
        return columns.select(reason.alias("reason"))["reason"]
