"""Classes of even size, in the training split only."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import field_validator, model_validator

from tuneloop.data.makers import Around, MakerBase
from tuneloop.data.makers.rows import christen, places
from tuneloop.errors import ConfigError


class Balance(MakerBase):
    """Copies rows of small classes (``over``), or drops rows of large ones (``under``). Rows without a class stay as they are.

    Copies teach nothing new: they weigh a class more. ``synthesise`` makes new rows.
    """

    name: ClassVar[str] = "balance"

    mode: Literal["over", "under"] = "over"
    """over: copies of rows in classes below the target; under: rows of classes above the target are dropped."""

    target: Literal["max", "median", "min"] | int = "median"
    """Rows that a class should have: as the largest, the median or the smallest class, or a number."""

    @field_validator("target")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1\nhint: max, median, min or a number of rows")
        return value

    @model_validator(mode="after")
    def _does_something(self) -> Balance:
        if (self.mode, self.target) in (("over", "min"), ("under", "max")):
            raise ValueError(
                f"mode {self.mode} with target {self.target} changes nothing"
                f"\nhint: target: {'max' if self.mode == 'over' else 'min'} or median"
            )
        return self

    def rows_wanted(self, sizes: Mapping[str, int]) -> int:
        """Rows that a class should have, given the sizes of all. The median of an even number of classes is the lower one."""
        if isinstance(self.target, int):
            return self.target
        if not sizes:
            raise ConfigError(
                "no training row has a class to balance",
                where="data.makers balance",
                hint="name the column: data.label_column, or remove balance",
            )
        if self.target == "median":
            return statistics.median_low(sizes.values())
        return max(sizes.values()) if self.target == "max" else min(sizes.values())

    def make(self, parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
        if self.mode == "under":  # its work is surplus
            around.report(made=0)
            return
        wanted = self.rows_wanted(around.labels)
        short = {label: size for label, size in around.labels.items() if 0 < size < wanted}
        last = self._last_places(parts, short, wanted, around)
        copies = {label: wanted // size - 1 for label, size in short.items()}
        made = 0
        for part in parts:
            mine = part.filter(pl.col("label").is_in(list(short)))
            if not mine.height:
                continue
            times = [
                copies[label] + (place <= last[label] if label in last else 0)
                for label, place in zip(mine["label"], places(mine["id"], around.seed, around.name), strict=True)
            ]
            at = np.repeat(np.arange(mine.height), times)
            if len(at):
                yield _copies(mine[at], around.name, made + 1)
            made += len(at)
        around.report(made=made, classes=len(short), rows_per_class=wanted)

    def _last_places(
        self, parts: Iterable[pl.DataFrame], short: Mapping[str, int], wanted: int, around: Around
    ) -> dict[str, int]:
        """What whole copies leave over: rows of a class up to this place are copied once more."""
        rest = {label: wanted % size for label, size in short.items() if wanted % size}
        seen: dict[str, list[pl.Series]] = {label: [] for label in rest}
        for part in parts:
            mine = part.filter(pl.col("label").is_in(list(rest))).select("id", "label")
            placed = mine.with_columns(place=pl.Series(places(mine["id"], around.seed, around.name), dtype=pl.UInt64))
            for (label,), group in placed.group_by("label"):
                seen[str(label)].append(group["place"])
        return {label: int(pl.concat(found).sort()[rest[label] - 1]) for label, found in seen.items()}

    def surplus(self, rows: pl.DataFrame, seed: int) -> pl.DataFrame:
        if self.mode == "over":
            return super().surplus(rows, seed)
        labelled = rows.filter(pl.col("label").is_not_null())
        wanted = self.rows_wanted(dict(labelled["label"].value_counts().iter_rows()))
        placed = labelled.with_columns(place=pl.Series(places(labelled["id"], seed, self.name), dtype=pl.UInt64))
        ranked = placed.with_columns(
            nth=pl.col("place").rank("ordinal").over("label"), size=pl.len().over("label")
        ).filter(pl.col("nth") > wanted)
        reason = pl.format("balance: {} of {} rows of class {} are kept", pl.lit(wanted), "size", "label")
        return ranked.select("id", reason=reason)


def _copies(originals: pl.DataFrame, name: str, first: int) -> pl.DataFrame:
    """Vectorised: a large class may be copied a million times."""
    nothing = originals.clear(originals.height)
    fresh = originals.with_columns(
        parents=pl.concat_list("id"),
        **{column: nothing[column] for column in ("dropped_step", "dropped_reason", "partner")},
        **{column: pl.lit([], dtype=originals.schema[column]) for column in ("history", "redactions")},
    )
    return christen(fresh, name, first)
