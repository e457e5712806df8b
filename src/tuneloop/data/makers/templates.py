"""Rows set into patterns, with entity values exchanged."""

from __future__ import annotations

import random as dice
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import field_validator, model_validator

from tuneloop.data.makers.edits import Edit, apply, whole
from tuneloop.data.makers.entities import entities, exchanged, shifted
from tuneloop.data.makers.rows import Draft, RowMaker, fields_text

TEXT = "text"
_HOLE = re.compile(r"\{(\w+)\}")


class Templates(RowMaker):
    """Puts a row's last user turn into a pattern; a row's entity takes another value of its slot, everywhere in the row.

    A slot that the row has no entity for is filled with any of its values. Entity values are exchanged in every turn, the
    answer too, and in ``fields.entities``: what is said stays consistent. Rows with tool calls keep theirs.
    """

    name: ClassVar[str] = "templates"

    patterns: tuple[str, ...] = ("{text}",)
    """Texts with {text} and slots, e.g. ``"I am in {city}. {text}"``."""

    slots: Mapping[str, tuple[str, ...]] = {}
    """Slot (and type of an entity) -> its values, e.g. ``{city: [Berlin, Shanghai]}``."""

    @field_validator("patterns")
    @classmethod
    def _with_text(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if _HOLE.findall(pattern).count(TEXT) != 1:
                raise ValueError(
                    f"the pattern {pattern!r} must hold {{text}} once\nhint: for example 'Hello, {{text}}'"
                )
        if not value:
            raise ValueError("there is no pattern\nhint: leave patterns out to exchange entity values only")
        return value

    @model_validator(mode="after")
    def _all_known(self) -> Templates:
        wanted = {hole for pattern in self.patterns for hole in _HOLE.findall(pattern)} - {TEXT}
        if TEXT in self.slots:
            raise ValueError("a slot cannot be called text\nhint: {text} is the row's own text")
        for slot in sorted(wanted - set(self.slots)):
            raise ValueError(
                f"the pattern names the slot {slot!r}, which has no values\nhint: slots: {{{slot}: [...]}}"
            )
        for slot, values in self.slots.items():
            if not all(values) or not values:
                raise ValueError(f"slot {slot!r} needs values that are not empty\nhint: slots: {{{slot}: [...]}}")
        if set(self.patterns) == {"{text}"} and not self.slots:
            raise ValueError("there is nothing to change\nhint: give patterns, slots or both")
        return self

    def remake(self, row: Mapping[str, Any], random: dice.Random) -> Draft | None:
        users = [k for k, turn in enumerate(row["messages"]) if turn["role"] == "user"]
        if not users:
            return None
        before = [turn["content"] for turn in row["messages"]]
        fields = self._exchange(row, users[0], random)
        known = {entity.type: entity.value for entity in entities(fields)}
        opening, closing = self._fill(random.choice(self.patterns), known, random)
        if len(users) == 1:
            fields = shifted(fields, [Edit(0, 0, opening)])
        last = row["messages"][users[-1]]
        last["content"] = opening + last["content"] + closing
        changed = [turn["content"] for turn in row["messages"]] != before
        return Draft(row["messages"], fields_text(fields)) if changed else None

    def _exchange(self, row: Mapping[str, Any], first_user: int, random: dice.Random) -> Mapping[str, Any]:
        """Exchange the entity values in the turns of a row, and return its new fields."""
        fields: Mapping[str, Any] = row["fields"]
        if any(turn["tool_calls"] for turn in row["messages"]):
            return fields
        new = self._new_values(fields, random)
        for k, turn in enumerate(row["messages"]):
            edits = _exchanges(turn["content"], new)
            if k == first_user:
                fields = shifted(fields, edits)
            turn["content"] = apply(turn["content"], edits)
            if turn["reasoning"]:
                turn["reasoning"] = apply(turn["reasoning"], _exchanges(turn["reasoning"], new))
        return exchanged(fields, lambda value: new.get(value, value))

    def _new_values(self, fields: Mapping[str, Any], random: dice.Random) -> dict[str, str]:
        """Old value -> another value of its slot."""
        out: dict[str, str] = {}
        for kind, value in entities(fields):
            others = [v for v in self.slots.get(kind, ()) if v != value]
            if others and value and value not in out:
                out[value] = random.choice(others)
        return out

    def _fill(self, pattern: str, known: Mapping[str, str], random: dice.Random) -> tuple[str, str]:
        """What stands before and after the text; slots are filled, with the row's own value where it has one."""
        chosen: dict[str, str] = {}

        def value(hole: re.Match[str]) -> str:
            slot = hole[1]
            if slot not in chosen:
                chosen[slot] = known.get(slot) or random.choice(self.slots[slot])
            return chosen[slot]

        before, _, after = pattern.partition("{text}")
        return _HOLE.sub(value, before), _HOLE.sub(value, after)


def _exchanges(text: str, new: Mapping[str, str]) -> list[Edit]:
    """Every occurrence of an old value, the longest first where they overlap; no part of a longer Latin word."""
    if not new:
        return []
    any_value = "|".join(whole(value) for value in sorted(new, key=len, reverse=True))
    return [Edit(m.start(), m.end(), new[m[0]]) for m in re.finditer(any_value, text)]
