"""``POST /v1/chat/completions``, ``/v1/completions`` and ``/generate``: a body in, an answer or its events out.

They are plain ASGI: FastAPI documents them, but its own way to a route, its reading of a body and its making of an answer
took a fifth of a request's processor time (``design/log.md``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from tuneloop.serve.answering import Answering
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import CONVERSATION_HEADER, Caller
from tuneloop.serve.bodies import DOORS, Call, read
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.schema import ChatRequest, CompletionRequest, GenerateRequest

JSON = [(b"content-type", b"application/json")]
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
END = b"data: [DONE]\n\n"


def add(app: FastAPI, gateway: Gateway) -> None:
    async def chat_completions(body: ChatRequest) -> None:
        """OpenAI's chat."""

    async def completions(body: CompletionRequest) -> None:
        """OpenAI's older interface: text continued as it stands."""

    async def generate(body: GenerateRequest) -> None:
        """A prompt in, a text out."""

    documented: dict[str, Callable[..., Any]] = {
        "/v1/chat/completions": chat_completions,
        "/v1/completions": completions,
        "/generate": generate,
    }
    for path in DOORS:
        route = APIRoute(path, documented[path], methods=["POST"])
        route.app = _Door(gateway, path)
        app.routes.append(route)


class Doors:
    """ASGI middleware that opens them; every other request goes on.

    Args:
        app: The rest, with the same doors as routes: by them they are documented, and refused to other methods.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._routes = {
            route.path: route for route in app.routes if isinstance(route, APIRoute) and route.path in DOORS
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = found
        await found.app(scope, receive, send)


class _Door:
    """One of them, behind the guard, which hands the body on in one message.

    Args:
        gateway: Who answers.
        path: Of ``DOORS``.
    """

    def __init__(self, gateway: Gateway, path: str) -> None:
        self._gateway, self._path = gateway, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        call = read(self._gateway, self._path, _json(headers.get(b"content-type", b""), (await receive())["body"]))
        answering = await Answering.begin(self._gateway, call.asked, _caller(scope, headers, call))
        watching = asyncio.create_task(_watch(receive, answering))
        try:
            await (_stream if call.body.stream else _whole)(call, answering, send)
        finally:
            watching.cancel()
            answering.close()


async def _whole(call: Call, answering: Answering, send: Send) -> None:
    body = _dump(call.shape.whole(answering, await answering.collect()))
    answering.close()  # its place is free before the client knows
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [*JSON, (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _stream(call: Call, answering: Answering, send: Send) -> None:
    """The status waits for the first token, so that an early failure is not a 200; a late one is the last event."""
    async with aclosing(call.shape.stream(answering)) as bodies:
        body = await anext(bodies)
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        try:
            while True:
                await send({"type": "http.response.body", "body": _event(body), "more_body": True})
                body = await anext(bodies)
        except StopAsyncIteration:
            last = END
        except ApiError as error:
            last = _event(error.body)
        await send({"type": "http.response.body", "body": last})


async def _watch(receive: Receive, answering: Answering) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.leave()


def _caller(scope: Scope, headers: dict[bytes, bytes], call: Call) -> Caller:
    state = scope["state"]
    said, trace = headers.get(CONVERSATION_HEADER.encode(), b"").decode("latin-1")[:256], state["trace"]
    traceparent = trace.traceparent if trace else ""
    return Caller(f"{call.kind}-{state['request_id']}", state["key"], call.body.user or "", said, traceparent)


def _json(kind: bytes, body: bytes) -> Any:
    """What a body holds.

    Raises:
        ApiError: 400 or 415. A page of the web can send other kinds without asking first, so they are refused.
    """
    if not body:
        raise ApiError(400, "the body is missing", code="invalid_json")
    media = kind.partition(b";")[0].strip().lower()
    if media != b"application/json" and not (media.startswith(b"application/") and media.endswith(b"+json")):
        raise ApiError(415, "the body must come as Content-Type: application/json", code="invalid_content_type")
    try:
        return from_json(body, allow_inf_nan=False)  # refuses half characters, which json.loads lets through
    except ValueError:
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + _dump(body) + b"\n\n"


def _dump(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
