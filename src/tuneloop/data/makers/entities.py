"""Entity values of a row: what must survive a change, and what a template may exchange.

They stand in ``fields.entities``, as ``{type: value}`` or as a list of ``{type, value, start, end}``; the offsets, where
there are any, count in the first user turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tuneloop.data.makers.edits import Edit, moved


class Entity(NamedTuple):
    """A value and its type, e.g. ``("city", "Berlin")``."""

    type: str
    value: str


def entities(fields: Mapping[str, Any]) -> Iterator[Entity]:
    """The entities of a row, in their order."""
    held = fields.get("entities")
    if isinstance(held, Mapping):
        for kind, value in held.items():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, str):
                    yield Entity(str(kind), one)
    elif isinstance(held, list):
        for item in held:
            if isinstance(item, Mapping) and isinstance(item.get("value"), str):
                yield Entity(str(item.get("type", "")), item["value"])


def exchanged(fields: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The fields with each entity value replaced by ``change(value)``."""
    held = fields.get("entities")

    def new(value: Any) -> Any:
        if isinstance(value, list):
            return [new(one) for one in value]
        return change(value) if isinstance(value, str) else value

    if isinstance(held, Mapping):
        return {**fields, "entities": {kind: new(value) for kind, value in held.items()}}
    if isinstance(held, list):
        return {
            **fields,
            "entities": [{**i, "value": new(i.get("value"))} if isinstance(i, Mapping) else i for i in held],
        }
    return dict(fields)


def shifted(fields: Mapping[str, Any], edits: Sequence[Edit]) -> dict[str, Any]:
    """The fields with entity offsets where they are after the edits of the first user turn."""
    held = fields.get("entities")
    if not edits or not isinstance(held, list):
        return dict(fields)
    out = []
    for item in held:
        if isinstance(item, Mapping) and isinstance(item.get("start"), int):
            item = {**item, "start": moved(item["start"], edits)}
            if isinstance(item.get("end"), int):
                item["end"] = moved(item["end"], edits)
        out.append(item)
    return {**fields, "entities": out}
