"""Rows whose annotation does not fit the schema or the text."""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import polars as pl
from pydantic import Field, PrivateAttr

from tuneloop.data.frame import spoken
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.verdicts import verdicts

_SHOWN_CHARACTERS = 40
_NAMED = 5
_SEPARATORS = str.maketrans("", "", "_-")
"""Nothing else: C, C++ and C# are three classes."""
_NAMES = ("type", "name", "entity", "label", "slot")
_VALUES = ("value", "text", "word", "mention")
"""Keys of an entity object in common annotation tools: spaCy, doccano, Label Studio and Rasa exports."""


class Labels(WholeBase):
    """Checks classes, entities and actions.

    A row is dropped when its class or action is not one of those listed, when its class has fewer than ``min_rows`` rows,
    or when the value of an entity does not occur in the text. Entities and actions are read from the column ``fields``:
    ``{"entities": {name: value} or [{type, value}], "action": name}``. Classes whose names differ only in letter case,
    spaces, hyphens or underscores are named in a note. Rows without annotation are kept.
    """

    name: ClassVar[str] = "labels"

    labels: tuple[str, ...] = ()
    """The classes there are; empty: any."""

    actions: tuple[str, ...] = ()
    """The actions there are; empty: any."""

    entities: tuple[str, ...] = ()
    """The types of entity there are; empty: any."""

    min_rows: int = Field(default=1, ge=1)
    """Classes with fewer rows are dropped; 1 keeps all. A class needs 3 to stand in every split."""

    check_values: bool = True
    """Whether the value of an entity must occur in the text (spaces, letter case and full-width forms apart)."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        problem: list[str | None] = [None] * frame.height
        annotated = frame["fields"].is_not_null().arg_true().to_list()
        if annotated:
            texts = spoken(frame[annotated], prompt_only=False)
            for at, fields, text in zip(annotated, frame["fields"][annotated], texts, strict=True):
                problem[at] = self._check(json.loads(fields), text)
        return frame.select("label").with_columns(problem=pl.Series(problem, dtype=pl.String))

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        counts = digests.select(pl.col("label").drop_nulls().value_counts()).unnest("label").collect()
        sizes = dict(counts.sort("label").iter_rows())
        self._note_twins(sizes)
        bad = {label: why for label, n in sizes.items() if (why := self._judge(label, n)) is not None}
        wrong = pl.col("label").replace_strict(bad, default=None, return_dtype=pl.String) if bad else pl.lit(None)
        found = digests.select("at", reason=pl.coalesce(wrong.cast(pl.String), "problem"))
        return verdicts(found.filter(pl.col("reason").is_not_null()).collect())

    def _judge(self, label: str, rows: int) -> str | None:
        if self.labels and label not in self.labels:
            return f"unknown label: {_unknown(label, self.labels)}"
        if rows < self.min_rows:
            return f"rare label: {_cut(label)} has {rows:,} of the {self.min_rows:,} rows it needs"
        return None

    def _check(self, fields: Mapping[str, Any], text: str) -> str | None:
        action = fields.get("action")
        if self.actions and isinstance(action, str) and action not in self.actions:
            return f"unknown action: {_unknown(action, self.actions)}"
        haystack = ""
        for name, value in entity_values(fields.get("entities")):
            if self.entities and name not in self.entities:
                return f"unknown entity: {_unknown(name, self.entities)}"
            haystack = haystack or _bare(text)
            if self.check_values and (needle := _bare(value)) and needle not in haystack:
                return f"entity not in text: {name} {_cut(value)}"
        return None

    def _note_twins(self, sizes: Mapping[str, int]) -> None:
        """Name classes that are most likely one class, written differently."""
        alike: dict[str, list[str]] = {}
        for label in sizes:
            alike.setdefault(_bare(label).translate(_SEPARATORS), []).append(label)
        for twins in [twins for twins in alike.values() if len(twins) > 1][:_NAMED]:
            shown = ", ".join(f"{_cut(label)} ({sizes[label]:,} rows)" for label in twins)
            self._notes.append(f"these classes look like one class, written differently: {shown}")


def entity_values(entities: Any, name: str = "value") -> Iterator[tuple[str, str]]:
    """(type, value) of every entity of an annotation, in whichever of the common shapes it is."""
    if isinstance(entities, Mapping):
        kind = next((str(entities[key]) for key in _NAMES if isinstance(entities.get(key), str)), None)
        said = next((entities[key] for key in _VALUES if key in entities), None)
        if kind is not None and said is not None:
            yield from entity_values(said, kind)
        elif kind is None or not any(key in entities for key in ("start", "end")):
            for key, value in entities.items():
                yield from entity_values(value, str(key))
    elif isinstance(entities, list):
        for one in entities:
            yield from entity_values(one, name)
    elif entities is not None and not isinstance(entities, bool):
        yield name, str(entities)


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f"{_cut(name)} is not listed" + (f"; is it {_cut(near[0])}?" if near else "")


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…")
