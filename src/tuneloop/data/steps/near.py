"""Rows that say almost the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import polars as pl
from pydantic import Field, PrivateAttr

from tuneloop.data import minhash
from tuneloop.data.frame import is_classification
from tuneloop.data.groups import Groups
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.exact import FREE, compared_text, rank
from tuneloop.progress import track


class NearDuplicates(WholeBase):
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

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select("id", "label", "pinned").with_columns(
            text=compared_text(frame), kind=is_classification(frame), rank=rank(frame)
        )

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        rows = digests.collect().sort("rank", "at")
        found = self._judge(rows)
        columns = {"reason": found.reasons, "partner": found.partners, "group": found.groups.names(found.ids)}
        verdicts = rows.select("at").with_columns(
            pl.Series(name, values, dtype=pl.String) for name, values in columns.items()
        )
        return verdicts.filter(pl.any_horizontal(pl.col(columns).is_not_null())).sort("at")

    def _judge(self, rows: pl.DataFrame) -> _Findings:
        """Walk over the candidate pairs in order; the earlier row of a pair is kept or already gone."""
        texts, kinds, labels = rows["text"].to_list(), rows["kind"].to_list(), rows["label"].to_list()
        pinned, rank_of = rows["pinned"].to_list(), rows["rank"].to_list()
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
