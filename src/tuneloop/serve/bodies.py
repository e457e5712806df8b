"""The bodies of calls, wherever they come from: read, refused by name, and the shape of what answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        raise explain(error.errors()) from None


def explain(errors: Sequence[Any], skip: int = 0) -> ApiError:
    """What pydantic found, in OpenAI's words.

    Args:
        errors: Its list; the first one is told.
        skip: How many steps of its path are not the body's (FastAPI puts ``body`` in front).
    """
    first = errors[0]
    path = ".".join(map(str, first["loc"][skip:]))
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown parameter {path!r}", param=path, code="unknown_parameter")
    if first["type"] == "missing" and not path:
        return ApiError(400, "the body is missing", code="invalid_json")
    if not path:
        return ApiError(400, f"the body: {first['msg']}", code="invalid_value")
    return ApiError(400, f"{path}: {first['msg']}", param=path, code="invalid_value")
