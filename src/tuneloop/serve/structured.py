"""Answers with a form: which grammar an answer is held to, and how its tool calls are read back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tuneloop.chat import opens_reasoning
from tuneloop.engines import DENIED, REFUSED, check_grammar
from tuneloop.errors import DataError, MissingExtraError, need
from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.serve.asked import Asked, ToolUse
from tuneloop.serve.tools import ToolStage
from tuneloop.types import Grammar, ToolCall

if TYPE_CHECKING:
    from tuneloop.serve.gateway import Gateway

QUICK_SCHEMA_CHARACTERS = 2_000
"""Larger schemas are compiled on a thread, so that the others' tokens keep flowing."""
CLOSE_REASONING = "\n</think>\n\n"


async def prepare(gateway: Gateway, asked: Asked, prompt: str) -> Asked:
    """The call with the grammar that it needs, checked.

    A prompt that opens the model's reasoning has it closed at once: what a grammar allows begins with the answer.

    Raises:
        ApiError: 400: no such token, a way of calling that this model does not have, a schema that cannot be kept to.
    """
    size = len(gateway.chat.tokenizer)
    if bad := next((t for t, _ in asked.logit_bias if t >= size), None):
        raise ApiError(400, f"there is no token {bad}", param="logit_bias", code="invalid_value")
    grammar, param = asked.grammar, "response_format"
    if asked.use is not None:
        if grammar is not None:
            raise unsupported(param, "tools and response_format exclude each other here; set tool_choice to none")
        if gateway.chat.call_format is None:
            raise unsupported("tools", "how this model's template writes calls is not known here")
        if asked.use.forced:
            grammar, param = await _forced(gateway, asked.use), "tool_choice"
        elif asked.use.strict:
            _validators(asked.use)
    if grammar is None:
        return asked
    if not gateway.process.capabilities.grammar:
        raise unsupported(param, "this engine cannot keep to a JSON schema")
    await _compile(grammar, param)
    closed = CLOSE_REASONING if opens_reasoning(prompt) else ""
    return replace(asked, grammar=replace(grammar, before=closed + grammar.before))


async def _forced(gateway: Gateway, use: ToolUse) -> Grammar:
    assert gateway.chat.call_format is not None
    schemas = {name: use.schemas[name] or _ANY for name in use.forced}
    grammar = gateway.chat.call_format.grammar(schemas)
    if grammar is None:
        raise unsupported("tool_choice", "this model's calls can only be forced one function at a time; name it")
    if gateway.process.capabilities.grammar:
        for schema in schemas.values():  # a call whose arguments cannot begin can begin
            await _compile(Grammar(json.dumps(schema)), "tools")
    return grammar


_ANY = {"type": "object"}


async def _compile(grammar: Grammar, param: str) -> None:
    try:
        if len(grammar.schema) > QUICK_SCHEMA_CHARACTERS:
            await asyncio.to_thread(check_grammar, grammar)
        else:
            check_grammar(grammar)
    except DataError as error:
        raise ApiError(400, f"{param}: {error.what}", param=param, code="invalid_schema") from error


def failed(error: str | None) -> ApiError:
    """What a failed answer is called: its schema may be to blame, or what a server behind the engine does not take, which
    nobody saw before the engine did."""
    if error and error.startswith(REFUSED):
        return ApiError(400, error, param="response_format", code="invalid_schema")
    if error and error.startswith(DENIED):
        return ApiError(400, error, code="upstream_refused")
    return ApiError(500, f"the engine failed: {error or 'it was stopped'}", code="engine_error")


def stages(gateway: Gateway, asked: Asked) -> list[ToolStage]:
    """What reads the calls back; nothing where no function is offered."""
    use, calls = asked.use, gateway.chat.call_format
    if use is None or calls is None:
        return []
    accept = _accept(use, bare=not calls.syntax.opening)
    return [ToolStage(calls, accept, parallel=use.parallel, forced=use.forced)]


def _accept(use: ToolUse, *, bare: bool) -> Callable[[ToolCall], bool]:
    """A strict function's arguments are valid; where a call has no marker, it is one only if it names a function."""
    validators = _validators(use) if use.strict and not use.forced else {}

    def accept(call: ToolCall) -> bool:
        if bare and call.name not in use.schemas:
            return False
        valid = validators.get(call.name)
        return valid is None or bool(valid.is_valid(json.loads(call.arguments)))

    return accept


def _validators(use: ToolUse) -> Mapping[str, Any]:
    """For strict functions that the model may call or not: a grammar would force it to.

    Raises:
        ApiError: 400: a schema is none, or its patterns could take for ever.
    """
    try:
        jsonschema = need("jsonschema", "structured")
    except MissingExtraError as missing:
        raise unsupported("tools", f"strict functions cannot be checked: {missing.what}") from missing
    out = {}
    for name in use.strict:
        schema = use.schemas[name] or _ANY
        if _has_pattern(schema):
            raise unsupported(
                "tools", f"{name}: a strict pattern needs tool_choice required or its name; or leave it out"
            )
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ApiError(400, f"{name}: {error.message}", param="tools", code="invalid_schema") from error
        out[name] = jsonschema.Draft202012Validator(schema, registry=_empty_registry())
    return out


@cache
def _empty_registry() -> Any:
    """References lead nowhere but into the schema itself: nothing is fetched."""
    return need("referencing", "structured").Registry()


def _has_pattern(schema: Any) -> bool:
    if isinstance(schema, dict):
        return any(
            (key in ("pattern", "patternProperties") and isinstance(value, (str, dict))) or _has_pattern(value)
            for key, value in schema.items()
        )
    return isinstance(schema, list) and any(map(_has_pattern, schema))
