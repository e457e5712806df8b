"""The bodies of calls, wherever they come from: read, refused by name, and the shape of what answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import Asked
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.schema import ChatRequest, CompletionRequest, Drawn, GenerateRequest
from tuneloop.serve.shapes import Shape, chat, completions, generate


@dataclass(frozen=True, slots=True)
class Call:
    """A body that can be answered."""

    body: Drawn
    asked: Asked
    shape: Shape
    kind: str
    """Prefix of the answer's id."""


def _chat(gateway: Gateway, values: Any) -> Call:
    body = ChatRequest.model_validate(values)
    return Call(body, body.asked(), chat.shape(gateway, body), "chatcmpl")


def _completion(gateway: Gateway, values: Any) -> Call:
    body = CompletionRequest.model_validate(values)
    return Call(body, body.asked(), completions.shape(gateway, body), "cmpl")


def _generate(gateway: Gateway, values: Any) -> Call:
    body = GenerateRequest.model_validate(values)
    return Call(body, body.asked(gateway.config.system), generate.shape(gateway), "gen")


DOORS: Mapping[str, Callable[[Gateway, Any], Call]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/generate": _generate,
}


def read(gateway: Gateway, door: str, values: Any) -> Call:
    """Read a body as the HTTP route ``door`` would.

    Args:
        gateway: Who will answer.
        door: A path of ``DOORS``.
        values: What the JSON holds.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        return DOORS[door](gateway, values)
    except ValidationError as error:
        raise explain(error.errors(), values) from None


NO_OBJECT = ("model_type", "model_attributes_type", "dict_type")


def explain(errors: Sequence[Any], body: Any, skip: int = 0) -> ApiError:
    """What pydantic found, in OpenAI's words.

    Args:
        errors: Its list; the first one is told, or where that is about one way to write a field, the one that lies deepest.
        body: What they are about.
        skip: How many steps of its path are not the body's (FastAPI puts ``body`` in front).
    """
    paths = [_written(error["loc"][skip:], body, error["type"] == "missing") for error in errors]
    told = max((path for path in paths if path[: len(paths[0])] == paths[0]), key=len)
    first, path = errors[paths.index(told)], ".".join(told)
    said = "Input should be an object" if first["type"] in NO_OBJECT else first["msg"]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown parameter {path!r}", param=path, code="unknown_parameter")
    if first["type"] == "missing" and not path:
        return ApiError(400, "the body is missing", code="invalid_json")
    if not path:
        return ApiError(400, f"the body: {said}", code="invalid_value")
    return ApiError(400, f"{path}: {said}", param=path, code="invalid_value")


def _written(steps: Sequence[str | int], value: Any, missing: bool) -> list[str]:
    """The steps of a path that the client wrote: pydantic adds the names of a union's members, which may be those of fields
    too. So the reading that reaches the end is taken. A ``missing`` last step is what should have been written."""
    return max(_readings(steps, value, missing), key=lambda reading: (reading[0], len(reading[1])))[1]


def _readings(steps: Sequence[str | int], value: Any, missing: bool) -> Iterator[tuple[bool, list[str]]]:
    """Ways to read a path: whether the last step is the client's, and the steps that are."""
    if not steps:
        yield False, []
        return
    step, *rest = steps
    for at_end, later in _readings(rest, value, missing):  # the step is the name of a union's member
        yield at_end, later
    if isinstance(value, dict) and step in value:
        inner = value[step]
    elif isinstance(value, list) and isinstance(step, int):
        inner = value[step] if step < len(value) else None
    elif missing and not rest:
        inner = None
    else:
        return
    for at_end, later in _readings(rest, inner, missing):
        yield at_end or not rest, [str(step), *later]
