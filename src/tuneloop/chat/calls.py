"""Function calls read back from what a model writes.

The syntax of a model is found by letting its template write a call and trying which of the known ones reads it:

hermes    ``<tool_call>{"name", "arguments"}</tool_call>`` (NousResearch's Hermes, Qwen 2.5 and 3; and our own, in ``tools``)
llama     the whole answer is ``{"name", "parameters"}`` (Llama 3.1; several stand after ``;``)
mistral   ``[TOOL_CALLS] [{"name", "arguments"}]``, or ``[TOOL_CALLS]name[ARGS]{...}`` (Mistral's tokenizers v3 and v11)
deepseek  ``<｜tool▁calls▁begin｜>`` and so on, arguments as they are (V3.1) or in a fenced block (V3, R1)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.types import Grammar, ToolCall

PROBE = ToolCall("zq7tool", '{"zq7key": "zq7value"}')
"""The call that a template is asked to write."""
_DECODER = json.JSONDecoder()
_FENCED = re.compile(r"\s*([^\n]+)\n```(?:json)?\n")
_MISTRAL_HEAD = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?={)")
_LLAMA_TAG = "<|python_tag|>"
_IN_JSON = re.compile(rf"\s*(?:{re.escape(_LLAMA_TAG)})?\s*[\[{{]")
_NAME = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_BRACE = re.compile("(?={)")
_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*')
_CALL, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


@dataclass(frozen=True, slots=True)
class Syntax:
    """How calls stand in a text.

    ``opening`` begins a block of calls, '' where the whole answer is one; ``closing`` ends it, '' where it goes to the
    end. ``read`` gives the calls of a block, None where it holds none. ``markers`` may be control tokens.
    """

    name: str
    opening: str
    closing: str
    read: Callable[[str], list[ToolCall] | None]
    markers: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    """What a block without an opening may begin with."""

    def begun(self, block: str, names: Sequence[str]) -> ToolCall | None:
        """The call of one of these functions that a block was cut in, its arguments as far as they go; None where its
        name cannot be known yet."""
        found = (_ARGUMENTS if _IN_JSON.match(block) else _BRACE).search(block)
        named = _NAME.search(block, 0, found.start() if found else len(block))
        name = names[0] if len(names) == 1 else next((n for n in names if named and json.dumps(n) == named[1]), None)
        rest = block[found.end() :] if found else ""
        whole = _json(rest)
        return None if name is None else ToolCall(name, rest[: whole[1]] if whole else rest)


def _call(value: Any) -> ToolCall | None:
    """A call from ``{"name": ..., "arguments" or "parameters": {...}}``."""
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str) or not name:
        return None
    given = value.get("arguments", value.get("parameters"))
    if not isinstance(given, dict):
        return None
    try:
        return ToolCall(name, json.dumps(given, ensure_ascii=False, allow_nan=False))
    except ValueError:
        return None


def _all(values: Sequence[Any]) -> list[ToolCall] | None:
    calls = [call for value in values if (call := _call(value)) is not None]
    return calls if calls and len(calls) == len(values) else None


def _json(text: str, at: int = 0) -> tuple[Any, int] | None:
    """A JSON value and where it ends; white space before it is skipped."""
    while at < len(text) and text[at].isspace():
        at += 1
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None


def _hermes(block: str) -> list[ToolCall] | None:
    found = _json(block)
    return _all([found[0]]) if found and not block[found[1] :].strip() else None


def _llama(block: str) -> list[ToolCall] | None:
    rest, values = block.strip().removeprefix(_LLAMA_TAG), []
    while rest.strip():
        if (found := _json(rest)) is None:
            return None
        values.append(found[0])
        rest = rest[found[1] :].lstrip().removeprefix(";")
    return _all(values)


def _mistral(block: str) -> list[ToolCall] | None:
    if block.lstrip().startswith("["):
        found = _json(block)
        whole = found is not None and isinstance(found[0], list) and not block[found[1] :].strip()
        return _all(found[0]) if found and whole else None
    calls, rest = [], block
    while rest.strip():
        rest = rest.lstrip().removeprefix("[TOOL_CALLS]")
        head = _MISTRAL_HEAD.match(rest)
        found = _json(rest, head.end()) if head else None
        if head is None or found is None or (call := _call({"name": head[1], "arguments": found[0]})) is None:
            return None
        calls.append(call)
        rest = rest[found[1] :]
    return calls or None


def _deepseek(block: str) -> list[ToolCall] | None:
    calls, rest = [], block
    while rest.strip():
        begin, _, body = rest.lstrip().partition(_SEP)
        if not begin.startswith(_CALL) or not body:
            return None
        name, at, fenced = begin.removeprefix(_CALL).strip(), 0, _FENCED.match(body)
        if fenced:
            name, at = fenced[1].strip(), fenced.end()
        found = _json(body, at)
        if found is None or not name or not isinstance(found[0], dict):
            return None
        arguments, after = body[at : found[1]].strip(), body[found[1] :].lstrip()
        after = after.removeprefix("```").lstrip() if fenced else after
        if after and not after.startswith(_CALL_END):
            return None
        calls.append(ToolCall(name, arguments))
        rest = after.removeprefix(_CALL_END)
    return calls or None


SYNTAXES = (
    Syntax("hermes", "<tool_call>", "</tool_call>", _hermes, ("<tool_call>", "</tool_call>")),
    Syntax(
        "deepseek",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        _deepseek,
        ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _CALL, _SEP, _CALL_END),
    ),
    Syntax("mistral", "[TOOL_CALLS]", "", _mistral, ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")),
    Syntax("llama", "", "", _llama, (_LLAMA_TAG,), ("{", _LLAMA_TAG)),
)


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How one model writes calls: the syntax, and a call of ``PROBE`` as its template writes it."""

    syntax: Syntax
    sample: str

    @classmethod
    def of(cls, sample: str) -> CallFormat | None:
        """The format of a sample; None where no known syntax reads it."""
        for syntax in SYNTAXES:
            opens = sample.lstrip().startswith(syntax.opening)
            block = sample.strip().removeprefix(syntax.opening).removesuffix(syntax.closing)
            if opens and _same(syntax.read(block)):
                return cls(syntax, sample)
        return None

    def grammar(self, functions: Mapping[str, Mapping[str, Any]]) -> Grammar | None:
        """What holds an answer to one call of one of these functions; None where that cannot be said.

        Args:
            functions: JSON schemas of the arguments by name. Where the name stands outside the JSON (DeepSeek), there
                can be only one.
        """
        for at, character in enumerate(self.sample):
            found = _json(self.sample, at) if character in "{[" else None
            if found and "zq7key" in json.dumps(found[0]):
                before, after = self.sample[:at], self.sample[found[1] :]
                break
        else:
            return None
        if PROBE.name in before:
            if len(functions) != 1:
                return None
            ((name, schema),) = functions.items()
            return Grammar(json.dumps(schema, ensure_ascii=False), before.replace(PROBE.name, name), after)
        either = [
            _schema_like(found[0], name, schema, f"#/anyOf/{i}" if len(functions) > 1 else "#")
            for i, (name, schema) in enumerate(functions.items())
        ]
        if None in either:
            return None
        return Grammar(
            json.dumps(either[0] if len(either) == 1 else {"anyOf": either}, ensure_ascii=False), before, after
        )


def _same(calls: list[ToolCall] | None) -> bool:
    return calls is not None and calls == [PROBE]


def _schema_like(value: Any, name: str, schema: Mapping[str, Any], at: str) -> dict[str, Any] | None:
    """The schema of all JSON that looks like the probe's, for another function."""
    if isinstance(value, list):
        inner = _schema_like(value[0], name, schema, f"{at}/items") if len(value) == 1 else None
        return inner and {"type": "array", "items": inner, "minItems": 1, "maxItems": 1}
    properties: dict[str, Any] = {}
    for key, part in value.items():
        if part == PROBE.name:
            properties[key] = {"const": name}
        elif part == json.loads(PROBE.arguments):
            properties[key] = moved(schema, f"{at}/properties/{key}")
        elif key == "id":
            properties[key] = {"type": "string", "pattern": "^[a-zA-Z0-9]{9}$"}
        else:
            return None
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def moved(schema: Any, to: str) -> Any:
    """A schema whose references still hold where it stands inside another one, at a JSON pointer."""
    if isinstance(schema, list):
        return [moved(item, to) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: to + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else value
        if key in ("const", "enum", "default", "examples")
        else moved(value, to)
        for key, value in schema.items()
    }
