"""``tools``, ``tool_choice`` and ``response_format`` of a chat call, checked."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field

from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.serve.asked import ToolUse
from tuneloop.serve.chat_messages import Strict
from tuneloop.types import Grammar

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 32
"""Nested objects and arrays in a schema."""
MAX_SCHEMA_COUNT = 20_000
"""What the numbers of a schema that an answer is held to may add up to. llama.cpp unrolls them while every other answer
waits: a million took it seconds, and a thousand million until its process was taken for hung."""
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
COUNTS = ("minItems", "maxItems", "multipleOf")

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Strict):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; without one there are none."""
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    name: Name


class NamedTool(Strict):
    type: Literal["function"]
    function: FunctionName


class JsonSchema(Strict):
    name: Name
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool


def grammar_of(wanted: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> Grammar | None:
    """What the answer must look like; None: anything.

    Raises:
        ApiError: 400: the schema is too large, too deep, or points outside itself.
    """
    if isinstance(wanted, JsonSchemaFormat):
        text = _checked(wanted.json_schema.schema_, "response_format")
        _countable(wanted.json_schema.schema_, "response_format")
        return Grammar(text)
    return Grammar("{}") if isinstance(wanted, JsonObjectFormat) else None


def tools_of(
    tools: list[Tool] | None, choice: ToolChoice | None, parallel: bool | None
) -> tuple[str | None, ToolUse | None]:
    """The schemas for the prompt as JSON, and how they may be used; (None, None) where none is offered.

    Raises:
        ApiError: 400, naming the field.
    """
    names = Counter(tool.function.name for tool in tools or ())
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise ApiError(400, f"there is no tool {choice.function.name!r}", param="tool_choice", code="invalid_value")
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice needs tools", param="tool_choice", code="invalid_value")
        return None, None
    if twice := [name for name, count in names.items() if count > 1]:
        raise ApiError(400, f"there are two tools {twice[0]!r}", param="tools", code="invalid_value")
    if choice == "none":
        return None, None
    given = {t.function.name: t.function.parameters for t in tools}
    schemas = {n: json.loads(_checked(NO_ARGUMENTS if s is None else s, "tools")) for n, s in given.items()}
    forced = (choice.function.name,) if isinstance(choice, NamedTool) else tuple(names) if choice == "required" else ()
    for name in forced:
        _countable(schemas[name], "tools")
    strict = frozenset(t.function.name for t in tools if t.function.strict)
    shown = json.dumps([tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools])
    return shown, ToolUse(schemas, forced, strict, parallel is not False)


def _checked(schema: dict[str, Any], param: str) -> str:
    """A schema as JSON text."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise _bad(param, "the schema holds a number that JSON does not have") from None
    if len(text.encode("utf-8", "surrogatepass")) > MAX_SCHEMA_BYTES:
        raise _bad(param, f"the schema has more than {MAX_SCHEMA_BYTES} bytes")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _bad(param, "the schema holds half a character")
    _walk(schema, param, MAX_SCHEMA_DEPTH)
    return text


def _walk(value: Any, param: str, depth: int) -> None:
    if not isinstance(value, (dict, list)):
        return
    if depth == 0:
        raise _bad(param, f"the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")
    if isinstance(value, dict):
        pointer = value.get("$ref")
        if isinstance(pointer, str) and not (pointer == "#" or pointer.startswith("#/")):
            raise unsupported(param, f"the reference {pointer!r} leads out of the schema; only #/... is followed")
        if word := next((w for w in ("$id", "$anchor", "$dynamicRef") if isinstance(value.get(w), str)), None):
            raise unsupported(param, f"{word} is not supported in a schema")
        if "x-guidance" in value:
            raise unsupported(param, "x-guidance is not part of JSON Schema")
    for part in value.values() if isinstance(value, dict) else value:
        _walk(part, param, depth - 1)


def _countable(schema: Any, param: str) -> None:
    if not _count(schema) <= MAX_SCHEMA_COUNT:
        raise _bad(param, f"{', '.join(COUNTS)} add up to more than {MAX_SCHEMA_COUNT}, and that cannot be kept to")


def _count(schema: Any) -> float:
    if isinstance(schema, dict):
        found = (schema[key] for key in COUNTS if isinstance(schema.get(key), (int, float)))
        own: float = sum(min(abs(number), MAX_SCHEMA_COUNT + 1) for number in found)
        return own + sum(map(_count, schema.values()))
    return sum(map(_count, schema)) if isinstance(schema, list) else 0


def _bad(param: str, why: str) -> ApiError:
    return ApiError(400, why, param=param, code="invalid_schema")
