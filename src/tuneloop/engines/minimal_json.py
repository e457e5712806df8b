"""The shortest JSON that a schema allows, for the fake engine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError

_SIMPLE: Mapping[str, Any] = {"null": None, "boolean": False, "integer": 0, "number": 0, "string": ""}
_DEEPEST = 64


def minimal(schema: str) -> str:
    """JSON text on one line.

    Raises:
        DataError: No such JSON is found; patterns, formats and negations are not tried.
    """
    root = json.loads(schema)
    return json.dumps(_value(root or {"type": "object"}, root, _DEEPEST), ensure_ascii=False)


def _value(schema: Any, root: Any, depth: int) -> Any:
    if depth == 0:
        raise DataError("the schema asks for a value without end")
    if not isinstance(schema, dict):
        return None
    for key in ("pattern", "format", "not", "allOf"):
        if key in schema:
            raise DataError(f"the fake engine cannot obey {key!r}")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        if not schema["enum"]:
            raise DataError("an empty enum allows nothing")
        return schema["enum"][0]
    if "$ref" in schema:
        return _value(_referred(str(schema["$ref"]), root), root, depth - 1)
    for either in ("anyOf", "oneOf"):
        if either in schema:
            return _first(schema[either], root, depth)
    return _typed(schema, root, depth)


def _first(schemas: list[Any], root: Any, depth: int) -> Any:
    """Of the first that allows a value: a list that ends often names its end second."""
    for i, schema in enumerate(schemas):
        try:
            return _value(schema, root, depth - 1)
        except DataError:
            if i == len(schemas) - 1:
                raise
    raise DataError("an empty choice allows nothing")


def _typed(schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "null")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        known = schema.get("properties", {})
        return {name: _value(known.get(name, {}), root, depth - 1) for name in schema.get("required", ())}
    if kind == "array":
        first, rest = schema.get("prefixItems", []), schema.get("items", {})
        count = max(int(schema.get("minItems", 0)), 0)
        return [_value(first[i] if i < len(first) else rest, root, depth - 1) for i in range(count)]
    if kind not in _SIMPLE:
        raise DataError(f"there is no type {kind!r}")
    if kind == "string":
        if schema.get("minLength", 0) > schema.get("maxLength", float("inf")):
            raise DataError("minLength is more than maxLength")
        return "x" * int(schema.get("minLength", 0))
    if kind in ("integer", "number"):
        return _number(schema)
    return _SIMPLE[kind]


def _number(schema: Mapping[str, Any]) -> int:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    ends = [math.ceil(low) if low > -math.inf else 0, math.floor(high) if high < math.inf else 0]
    inside = [math.floor(above) + 1 if above > -math.inf else 0, math.ceil(below) - 1 if below < math.inf else 0]
    for value in (0, *ends, *inside):
        if low <= value <= high and above < value < below:
            return value
    raise DataError("no whole number lies between the bounds")


def _referred(pointer: str, root: Any) -> Any:
    """RFC 6901, inside the document."""
    found = root
    for step in pointer.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            raise DataError(f"{pointer} is not in the schema")
        found = found[name]
    return found
