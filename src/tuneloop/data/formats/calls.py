"""Function schemas and function calls, in the one form that the frame holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tuneloop.data.formats.nouns import Unusable
from tuneloop.data.formats.values import json_text, loaded

_TOOL_LISTS = 256
"""A file usually repeats a few lists of tools; so many different ones are remembered."""


def tools_json(value: Any) -> str | None:
    """Function schemas as a JSON array in OpenAI's form, ``{"type": "function", "function": {name, ...}}``, or None.

    Raises:
        Unusable: They are not a list of objects with a name.
    """
    return _tools_of_text(value) if isinstance(value, str) else _tools(value)


@lru_cache(_TOOL_LISTS)
def _tools_of_text(value: str) -> str | None:
    return _tools(loaded(value, "tools")) if value.strip() else None


def _tools(value: Any) -> str | None:
    if not value:
        return None
    tools = [_without_nulls(tool) for tool in (value if isinstance(value, list) else [value])]
    wrapped = [{"type": "function", "function": t} if isinstance(t, dict) and "name" in t else t for t in tools]
    for tool in wrapped:
        inner = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise Unusable("wrong shape: a tool is an object with a name")
    return json_text(wrapped)


def _without_nulls(value: Any) -> Any:
    """Parquet gives every object every key: those without a value say nothing."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def call_of_text(value: str) -> list[Any]:
    """The calls of a ShareGPT turn ``function_call``: a JSON object, or a list of them."""
    calls = loaded(value, "function_call")
    return calls if isinstance(calls, list) else [calls]


def calls_json(calls: Sequence[Any], after: str | None = None) -> str:
    """Calls as a JSON array of {name, arguments}, ``arguments`` being a JSON object as text (see ``types.ToolCall``).

    Args:
        calls: OpenAI's form, ``{"function": {name, arguments}}``, or bare ``{name, arguments}``.
        after: Calls of the same turn that come first.

    Raises:
        Unusable: A call has no name, or its arguments are no JSON object.
    """
    calls = calls if isinstance(calls, list) else loaded(calls, "tool_calls")
    if not isinstance(calls, list) or not calls:
        raise Unusable("wrong shape: tool_calls is a list of calls")
    return json_text([*(json.loads(after) if after else []), *map(_call, calls)])


def _call(call: Any) -> dict[str, str]:
    inner = call.get("function") if isinstance(call, dict) and isinstance(call.get("function"), dict) else call
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise Unusable("wrong shape: a function call has a name and arguments")
    given = inner.get("arguments", inner.get("parameters"))
    for _ in range(2):  # some exporters write the JSON text as JSON text again
        if isinstance(given, str) and given.strip():
            given = loaded(given, "arguments")
    if given is None or given == "":
        given = {}
    if not isinstance(given, dict):
        raise Unusable("wrong shape: the arguments of a function call are a JSON object")
    return {"name": inner["name"], "arguments": json_text(given)}
