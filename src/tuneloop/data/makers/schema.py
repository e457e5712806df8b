"""The part of JSON Schema (draft 2020-12) that a row needs. Other keywords are refused, never overlooked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
_REMARKS = frozenset({"$schema", "title", "description", "examples", "default"})
_CHECKED = frozenset(
    [
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
    ]
)


def check_schema(schema: Mapping[str, Any], at: str = "") -> None:
    """Refuse what ``problem`` does not check.

    Raises:
        ValueError: Names the place in the schema.
    """
    if not isinstance(schema, Mapping):
        raise ValueError(f"{at or 'the schema'}: {schema!r} is not a schema\nhint: for example {{type: string}}")
    for key in schema:
        if key not in _CHECKED | _REMARKS:
            raise ValueError(
                f"{at or 'the schema'}: the keyword {key!r} is not checked\nhint: known: {' '.join(sorted(_CHECKED))}"
            )
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in _TYPES:
            raise ValueError(f"{at or 'the schema'}: unknown type {kind!r}\nhint: known: {', '.join(_TYPES)}")
    if "pattern" in schema:
        try:
            re.compile(schema["pattern"])
        except re.error as error:
            raise ValueError(f"{at or 'the schema'}: the pattern is not valid: {error}") from None
    for name, inner in schema.get("properties", {}).items():
        check_schema(inner, f"{at}.{name}" if at else name)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            check_schema(schema[key], f"{at}[]" if at else "[]")


def problem(value: Any, schema: Mapping[str, Any], at: str = "row") -> str | None:
    """The first thing that is wrong with a value, or None."""
    if "type" in schema and not _is_a(value, schema["type"]):
        return f"{at} is not of type {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at} is none of the {len(schema['enum'])} allowed values"
    if "const" in schema and value != schema["const"]:
        return f"{at} is not {schema['const']!r}"
    if isinstance(value, str):
        return _text(value, schema, at)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, schema, at)
    if isinstance(value, list):
        return _array(value, schema, at)
    return _object(value, schema, at) if isinstance(value, dict) else None


def _is_a(value: Any, kinds: str | list[str]) -> bool:
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind in ("number", "integer") and isinstance(value, bool):
            continue
        if isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer()):
            return True
    return False


def _text(value: str, schema: Mapping[str, Any], at: str) -> str | None:
    if len(value) < schema.get("minLength", 0):
        return f"{at} is shorter than {schema['minLength']} characters"
    if len(value) > schema.get("maxLength", len(value)):
        return f"{at} is longer than {schema['maxLength']} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{at} does not match {schema['pattern']!r}"
    return None


def _number(value: float, schema: Mapping[str, Any], at: str) -> str | None:
    if value < schema.get("minimum", value):
        return f"{at} is less than {schema['minimum']}"
    if value > schema.get("maximum", value):
        return f"{at} is more than {schema['maximum']}"
    return None


def _array(value: list[Any], schema: Mapping[str, Any], at: str) -> str | None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{at} has {len(value)} items"
    inner = schema.get("items", {})
    return next((found for k, item in enumerate(value) if (found := problem(item, inner, f"{at}[{k}]"))), None)


def _object(value: dict[str, Any], schema: Mapping[str, Any], at: str) -> str | None:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    if missing := [name for name in schema.get("required", ()) if name not in value]:
        return f"{at} lacks {missing[0]!r}"
    for name, item in value.items():
        if name not in properties and others is False:
            return f"{at} has the unknown property {name!r}"
        inner = properties.get(name, others if isinstance(others, Mapping) else {})
        if found := problem(item, inner, f"{at}.{name}"):
            return found
    return None
