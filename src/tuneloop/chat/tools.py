"""Functions a model may call: how a template writes them, or plain text where a template knows nothing of them.

A template that knows functions gets them as transformers documents it: ``tools=[...]``, ``message["tool_calls"]``, the
role ``tool``. What differs between templates (arguments as object or as text, empty content as '' or none) is found by
trying. For all others functions are written into ordinary messages, in the format of the Hermes models (NousResearch),
which Qwen 2.5 took over and which servers know how to read back: schemas in the system prompt between ``<tools>``, a call
as ``<tool_call>`` with a JSON object, a result as a user message in ``<tool_response>``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tuneloop.chat.reasoning import separate
from tuneloop.errors import DataError
from tuneloop.types import Message, ToolCall

Plain = list[dict[str, Any]]
Render = Callable[[Plain, list[Any] | None], str]

_INSTRUCTION = (
    "You may call one or more functions to help the user. Their signatures stand between <tools> and </tools>:\n"
    "<tools>\n{tools}\n</tools>\n\n"
    "For each call, write a JSON object with the function's name and arguments between <tool_call> and </tool_call>:\n"
    '<tool_call>\n{{"name": <function name>, "arguments": <arguments as a JSON object>}}\n</tool_call>'
)
_PROBE_TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "zq7tool",
                "description": "zq7about",
                "parameters": {
                    "type": "object",
                    "properties": {"zq7key": {"type": "string", "description": "zq7text"}},
                },
            },
        }
    ]
)
_PROBE = (
    Message("user", "a"),
    Message("assistant", "", tool_calls=(ToolCall("zq7tool", '{"zq7key": "zq7value"}'),)),
    Message("tool", "zq7result"),
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a template that knows functions wants calls: what stands for empty content, arguments as text or object."""

    empty: str | None
    arguments_as_text: bool

    def plain(self, messages: Sequence[Message]) -> Plain:
        """Messages as ``apply_chat_template`` takes them. Calls are numbered, as some templates want an id."""
        out: Plain = []
        calls, results = 0, 0
        for message in messages:
            row: dict[str, Any] = {"role": message.role, "content": separate(message).content}
            if message.tool_calls:
                row["content"] = row["content"] or self.empty
                row["tool_calls"] = [self._call(call, calls + i) for i, call in enumerate(message.tool_calls)]
                calls += len(message.tool_calls)
            elif message.role == "tool" and results < calls:
                row["tool_call_id"] = _id(results)
                results += 1
            out.append(row)
        return out

    def _call(self, call: ToolCall, number: int) -> dict[str, Any]:
        given = call.arguments if self.arguments_as_text else parse_arguments(call)
        return {"id": _id(number), "type": "function", "function": {"name": call.name, "arguments": given}}


def _id(number: int) -> str:
    """Nine letters and digits, as Mistral's templates demand."""
    return f"call{number:05d}"


def find_dialect(render: Render) -> Dialect | None:
    """How this template writes functions; None: it does not know them.

    Args:
        render: The template, without generation prompt.
    """
    import jinja2

    for empty, as_text in product(("", None), (False, True)):
        dialect = Dialect(empty, as_text)
        try:
            shown = render(dialect.plain(_PROBE), parse_tools(_PROBE_TOOLS))
        except (jinja2.TemplateError, TypeError):  # a type error: text joined with none, or with an object
            continue
        before, _, after = shown.rpartition("zq7key")
        whole = "zq7about" in before and "zq7tool" in before.rpartition("zq7about")[2] and "zq7result" in after
        if whole and before.endswith('"') and after.startswith('"') and '"zq7value"' in after:
            return dialect
    return None


def parse_tools(tools: str) -> list[Any]:
    """Function schemas from their JSON array.

    Raises:
        DataError: It is none.
    """
    try:
        value = json.loads(tools)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise DataError("the functions are not a JSON array", hint='write [{"type": "function", "function": {...}}]')
    return value


def parse_arguments(call: ToolCall) -> Mapping[str, Any]:
    """The arguments of a call as an object.

    Raises:
        DataError: They are none.
    """
    try:
        value = json.loads(call.arguments)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DataError(
            f"the arguments of the call of {call.name!r} are not a JSON object", hint='write {"name": "value"}'
        )
    return value


def written_out(messages: Sequence[Message], tools: str | None) -> list[Message]:
    """The same conversation for a template that knows nothing of functions: everything is text.

    Results of one turn's calls stand in one user message, so that user and assistant still alternate.
    """
    out: list[Message] = []
    after_result = False
    for message in messages:
        is_result = message.role == "tool"
        if is_result:
            message = replace(message, role="user", content=f"<tool_response>\n{message.content}\n</tool_response>")
            if after_result:
                message = replace(message, content=f"{out.pop().content}\n{message.content}")
        out.append(replace(message, content=call_text(message), tool_calls=()) if message.tool_calls else message)
        after_result = is_result
    if not tools or not (schemas := parse_tools(tools)):
        return out
    told = _INSTRUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in schemas))
    if out and out[0].role == "system":
        return [replace(out[0], content=f"{out[0].content}\n\n{told}"), *out[1:]]
    return [Message("system", told), *out]


def call_text(message: Message) -> str:
    """Content and calls of an assistant message as text."""
    calls = (
        json.dumps({"name": call.name, "arguments": parse_arguments(call)}, ensure_ascii=False)
        for call in message.tool_calls
    )
    blocks = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    return "\n".join([message.content, *blocks] if message.content.strip() else blocks)
