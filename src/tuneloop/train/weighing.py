"""How much a row weighs: a column of its own times the weight of its source."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase

from tuneloop.errors import DataError
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig
from tuneloop.types import Record


def sources_of(origin: str) -> Iterator[str]:
    """What a source may be called: the origin without its line, as written and without folders.

    An origin is ``name:line`` or ``name:place``, and a place may hold colons itself (``call.wav:0:30-1:00``).
    """
    parts = origin.split(":")
    for end in range(len(parts) - 1, 0, -1):
        name = ":".join(parts[:end])
        yield name
        yield name.rpartition("/")[2]


class Weighing:
    """Gives every record its weight, and counts for the log.

    A record's weight is the number in ``weight_column`` (1 where it is empty) times the weight of its source; of
    several patterns that match a source its exact name wins, then the first one.

    Args:
        config: ``weight_column`` and ``source_weights``.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.column, self.patterns = config.weight_column, dict(config.source_weights)
        self.matched: Counter[str] = Counter()
        self.rows = self.without = 0
        self._known: dict[str, str | None] = {}

    def of(self, record: Record) -> float:
        """The weight of a record.

        Raises:
            DataError: Its column holds no number, or a negative one.
        """
        self.rows += 1
        weight = 1.0 if self.column is None else self._own(record, self.column)
        pattern = self._pattern(record.origin)
        if pattern is None:
            return weight
        self.matched[pattern] += 1
        return weight * self.patterns[pattern]

    def _own(self, record: Record, column: str) -> float:
        value = record.fields.get(column)
        if value is None or value == "":
            self.without += 1
            return 1.0
        try:
            weight = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise DataError(
                f"the weight of a row is {value!r}, not a number from 0 up",
                where=f"{record.origin} record {record.id}".strip(),
                hint=f"mend the column {column!r}, or remove train.weight_column",
            )
        return weight

    def _pattern(self, origin: str) -> str | None:
        if not self.patterns:
            return None
        source = origin.rpartition(":")[0]
        if source not in self._known:
            names = list(sources_of(origin))
            exact = [n for n in names if n in self.patterns]
            fitting = [p for p in self.patterns if any(fnmatchcase(n, p) for n in names)]
            self._known[source] = next(iter(exact + fitting), None)
        return self._known[source]

    def say(self, split: str) -> None:
        """Report what was weighed; of the training split also what a pattern missed.

        Raises:
            DataError: No record of the training split has the column.
        """
        if self.column is not None and self.rows and split == "train":
            if self.without == self.rows:
                raise DataError(
                    f"no training row has a weight in {self.column!r}",
                    where="train.weight_column",
                    hint=f"records keep it with data.keep_columns: [{self.column}]",
                )
            if self.without:
                log(f"  {split}: {self.without:,} rows have no {self.column!r} and weigh 1")
        for pattern, weight in self.patterns.items():
            if n := self.matched[pattern]:
                log(f"  {split}: {n:,} rows of {pattern!r} weigh {weight:g}")
            elif split == "train":
                seen = ", ".join(sorted(s for s in self._known if s)[:5]) or "none"
                log(f"warning: train.source_weights: {pattern!r} matches no training row; sources are: {seen}")
