"""Rows that say almost the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import polars as pl
from pydantic import Field, PrivateAttr

from tuneloop.data import minhash
from tuneloop.data.frame import drop, is_classification
from tuneloop.data.groups import Groups
from tuneloop.data.steps import StepBase
from tuneloop.data.steps.exact import FREE, compared_text, rank
from tuneloop.progress import track


class NearDuplicates(StepBase):
    """Drops a row whose text is at least ``threshold`` similar to an earlier kept row.

    Every drop is justified by a kept partner, not by a chain of similar rows: chains delete whole corpora. Two similar
    rows of different classes are both kept (that difference is what a classifier must learn) and go into the same
    split. Rows that resemble a row of a prescribed test or validation source are leaks and are dropped.
    """

    name: ClassVar[str] = "near_duplicates"

    threshold: float = Field(default=0.8, gt=0.0, le=1.0)
    """Jaccard similarity of character 5-grams from which two texts count as the same."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        self._notes.clear()
        ranks = rank(frame)
        order = pl.Series(np.argsort(ranks.to_numpy(), kind="stable"))
        found = self._judge(frame[order], ranks[order])
        back = pl.Series(np.argsort(order.to_numpy(), kind="stable"))
        reasons = pl.Series(found.reasons, dtype=pl.String)[back]
        partners = pl.Series(found.partners, dtype=pl.String)[back]
        groups = pl.Series("group", found.groups.names(found.ids), dtype=pl.String)[back]
        return drop(frame.with_columns(group=pl.coalesce("group", groups)), self.name, reasons, partners)

    def _judge(self, rows: pl.DataFrame, ranks: pl.Series) -> _Findings:
        """Walk over the candidate pairs in order; the earlier row of a pair is kept or already gone."""
        texts = compared_text(rows).to_list()
        kinds, labels = is_classification(rows).to_list(), rows["label"].to_list()
        pinned, rank_of = rows["pinned"].to_list(), ranks.to_list()
        pairs, capped = minhash.candidates(texts, self.threshold)
        if capped:
            self._notes.append(
                f"{capped:,} rows look alike to the sketch; in groups that large only neighbours were compared: "
                "is it a template or boilerplate?"
            )
        found = _Findings(rows["id"].to_list())
        sets: dict[int, frozenset[str]] = {}
        for i, j in track(pairs, "comparing similar rows", unit="pairs"):
            free = rank_of[j] == FREE
            if found.reasons[i] or found.reasons[j] or (not free and rank_of[i] == rank_of[j]):
                continue
            if kinds[i] != kinds[j]:
                continue
            for k in (i, j):
                if k not in sets:
                    sets[k] = minhash.shingles(texts[k])
            similarity = minhash.jaccard(sets[i], sets[j])
            if similarity < self.threshold:
                continue
            how = f"{similarity:.2f} similar to {found.ids[i]}"
            if rank_of[i] < FREE:
                found.drop(j, i, f"leak: {how} of the {pinned[i]} source")
            elif kinds[i] and labels[i] != labels[j]:
                found.groups.join(i, j)
            else:
                found.drop(j, i, f"near-duplicate: {how}")
        return found


@dataclass
class _Findings:
    """What was decided, by position in judging order."""

    ids: list[str]
    reasons: list[str | None] = field(init=False)
    partners: list[str | None] = field(init=False)
    groups: Groups = field(default_factory=Groups)

    def __post_init__(self) -> None:
        self.reasons, self.partners = [None] * len(self.ids), [None] * len(self.ids)

    def drop(self, row: int, partner: int, reason: str) -> None:
        self.reasons[row], self.partners[row] = reason, self.ids[partner]
