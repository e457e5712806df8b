"""Annotated sentences: {text, intent, entities, action}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tuneloop.data.columns import ACTIONS, ENTITIES, LABELS, TEXTS, Names
from tuneloop.data.formats.nouns import Detected, Parsed, Row, Unusable, says, unique
from tuneloop.data.formats.values import json_text, label, loaded, text

_TYPES = ("type", "entity_type", "label", "entity", "slot", "name", "类型")
_VALUES = ("value", "entity_value", "text", "word", "span", "值")
_STARTS = ("start", "start_position", "begin", "offset")


def find_annotation(names: Names) -> Detected | None:
    """A text with its entities; the class is the intent, entities and action go into ``fields``.

    The answer is the class, or, where ``response_column`` says ``intent+entities+action``, the JSON of these columns.
    """
    entities = names.find(*ENTITIES)
    if names.response or (entities is None and not names.answer_parts):
        return None
    if entities is not None and not _is_entities(_read(names.sample(entities))):
        return None
    action = names.find(*ACTIONS)
    named = names.classes(*(n for n in LABELS if names.find(n) != entities))
    prompt = names.prompt or next((c for n in TEXTS if (c := names.find(n)) and c not in (named, entities)), None)
    if prompt is None:
        return None
    parts = names.answer_parts or (() if named or not entities else (entities,))

    def parse(row: Row) -> Parsed:
        fields: dict[str, Any] = {}
        if entities:
            fields["entities"] = normal_entities(row.get(entities))
        if action and row.get(action) not in (None, ""):
            fields["action"] = row[action]
        turns = [says("user", text(row.get(prompt)))]
        if parts:
            # Without their places: a model that writes tokens cannot count characters.
            named_ones = [{"type": e["type"], "value": e["value"]} for e in fields.get("entities", ())]
            said = {c: named_ones if c == entities else row.get(c) for c in parts}
            turns.append(says("assistant", json_text(said)))
        return Parsed(turns, label(row.get(named)) if named else None, fields=json_text(fields) if fields else None)

    words = f"annotated text {prompt!r}" + (f", class {named!r}" if named else "")
    words += f", entities {entities!r}" if entities else ""
    words += f", action {action!r}" if action else ""
    words += f", answered by the JSON of {' + '.join(parts)}" if parts else ""
    return Detected("annotation", words, unique(prompt, named, entities, action, *parts), parse)


def normal_entities(value: Any) -> list[dict[str, Any]]:
    """Entities as a list of {type, value, start?}; ``start`` is in characters.

    They may come as such a list under other names, as {type: value}, or as JSON text of either.

    Raises:
        Unusable: They are something else.
    """
    value = loaded(value, "entities") if isinstance(value, str) and value.strip() else value
    if not value:
        return []
    if isinstance(value, Mapping):
        pairs = [
            (kind, one) for kind, found in value.items() for one in (found if isinstance(found, list) else [found])
        ]
        return [{"type": str(kind), "value": text(one)} for kind, one in pairs if one is not None]
    if not _is_entities(value):
        raise Unusable("wrong shape: entities are a list of objects with type and value")
    return [_entity(one) for one in value]


def _entity(one: Any) -> dict[str, Any]:
    kind = _first(one, _TYPES) if isinstance(one, Mapping) else None
    value = _first(one, _VALUES) if isinstance(one, Mapping) else None
    if kind is None or value is None:
        raise Unusable("wrong shape: an entity has a type and a value")
    start = _first(one, _STARTS)
    return {"type": str(kind), "value": text(value)} | ({"start": start} if isinstance(start, int) else {})


def _first(one: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((one[key] for key in keys if one.get(key) is not None), None)


def _is_entities(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and _first(first, _TYPES) is not None and _first(first, _VALUES) is not None


def _read(value: Any) -> Any:
    """The value, or what its JSON text says; None where it is neither."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
