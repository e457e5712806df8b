"""OpenAI's chat messages, checked and made into ``Message``: who called what, and which result belongs to which call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tuneloop.serve.api_error import ApiError
from tuneloop.types import Message, Role, ToolCall

MAX_CALLS = 128
"""Calls in one message."""


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Strict(BaseModel):
    """No field is unknown, no value is bent into another type. A null says that a field is not given, whatever its name:
    clients write one for all that they know and do not use."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        nulls = isinstance(values, dict) and None in values.values()
        return {key: value for key, value in values.items() if value is not None} if nulls else values


class TextPart(Strict):
    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str


class CalledTool(Strict):
    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        list[TextPart] | None, BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart] | None)
    ] = None
    """A string, or text parts; an assistant's may be missing."""
    reasoning_content: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[CalledTool], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content or ())


def to_messages(given: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The conversation; results stand in the order of the calls that they answer.

    Raises:
        ApiError: 400, naming the field: a field that this role does not have, a call without a result, a result
            without a call.
    """
    out: list[Message] = []
    waiting: dict[str, str] = {}
    results: dict[str, Message] = {}
    for at, message in enumerate(given):
        _check(at, message)
        if message.role == "tool":
            results[_answered(at, message, waiting, results)] = Message("tool", message.text)
            if len(results) == len(waiting):
                out += [results[call] for call in waiting]
                waiting, results = {}, {}
            continue
        if waiting:
            _refuse(at, "role", f"the calls {', '.join(waiting.keys() - results)} have no result yet")
        calls = message.tool_calls or []
        waiting = {call.id: call.function.name for call in calls}
        if len(waiting) < len(calls):
            _refuse(at, "tool_calls", "two calls have the same id")
        role: Role = "system" if message.role == "developer" else message.role
        said = tuple(ToolCall(call.function.name, call.function.arguments) for call in calls)
        out.append(Message(role, message.text, message.reasoning_content, said))
    if waiting:
        _refuse(len(given) - 1, "role", f"the calls {', '.join(waiting.keys() - results)} have no result yet")
    return tuple(out)


def _answered(at: int, message: ChatMessage, waiting: dict[str, str], results: dict[str, Message]) -> str:
    """The id of the call that a result belongs to."""
    call = message.tool_call_id
    if call is None or call not in waiting or call in results:
        _refuse(at, "tool_call_id", f"no call {call!r} is waiting for a result")
        raise AssertionError
    if message.name is not None and message.name != waiting[call]:
        _refuse(at, "name", f"the call {call!r} was one of {waiting[call]!r}")
    return call


def _check(at: int, message: ChatMessage) -> None:
    """Fields that belong to other roles are refused, not ignored."""
    for field, roles in (
        ("tool_calls", ("assistant",)),
        ("reasoning_content", ("assistant",)),
        ("tool_call_id", ("tool",)),
        ("name", ("tool",)),
    ):
        if getattr(message, field) is not None and message.role not in roles:
            _refuse(at, field, f"a message of role {message.role} has no {field} here")
    if message.content is None and message.role != "assistant":
        _refuse(at, "content", "content is missing")
    for i, call in enumerate(message.tool_calls or ()):
        try:
            valid = isinstance(json.loads(call.function.arguments), dict)
        except (ValueError, RecursionError):
            valid = False
        if not valid:
            _refuse(at, f"tool_calls.{i}.function.arguments", "the arguments are not a JSON object")


def _refuse(at: int, field: str, why: str) -> None:
    raise ApiError(400, why, param=f"messages.{at}.{field}", code="invalid_value")
