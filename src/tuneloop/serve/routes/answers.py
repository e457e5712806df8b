"""What the routes share: who asks, waiting that ends when the client leaves, server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from tuneloop.serve.answer import TokenLogprob
from tuneloop.serve.answering import Answering, Delta
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import Asked, Caller
from tuneloop.serve.gateway import Gateway

T = TypeVar("T")
CONVERSATION_HEADER = "x-conversation-id"
Chunks = Iterator[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """How the answers to one body are told, over whatever connection. One stream of chunks at a time."""

    whole: Callable[[Answering, list[list[TokenLogprob]]], dict[str, Any]]
    """All answers, with the logprobs of each, as a body."""
    chunks: Callable[[Answering, Delta], Chunks]
    """A delta as bodies of events."""
    last: Callable[[Answering], Chunks] = lambda _: iter(())
    """Bodies after the last delta."""
    first: Callable[[Answering], Chunks] = lambda _: iter(())
    """Bodies before the first delta."""


def caller(http: HttpRequest, kind: str, user: str | None = None) -> Caller:
    """Who asks; ``kind`` is the prefix of the answer's id, as in OpenAI's API."""
    state = http.state
    said, trace = http.headers.get(CONVERSATION_HEADER, "")[:256], state.trace
    return Caller(f"{kind}-{state.request_id}", state.key, user or "", said, trace.traceparent if trace else "")


async def answer(
    gateway: Gateway, http: HttpRequest, asked: Asked, who: Caller, shape: Shape, *, stream: bool
) -> Response:
    """Answer one call, whole or (with ``stream``) as server-sent events.

    The status of a stream waits for the first token, so that an early failure is not a 200.

    Args:
        gateway: Where it is answered.
        http: Its connection, watched for a client that leaves.
        asked: The call.
        who: The caller.
        shape: How to tell the answers.
        stream: As they come.

    Raises:
        ApiError: It cannot be answered.
    """
    answering = await Answering.begin(gateway, asked, who)
    try:
        if not stream:
            return JSONResponse(shape.whole(answering, await _unless_gone(http, answering.collect())))
        deltas = aiter(answering)
        begun = await _unless_gone(http, anext(deltas))
    except BaseException:
        answering.close()
        raise
    finally:
        if not stream:
            answering.close()

    async def events() -> AsyncIterator[bytes]:
        try:
            for body in shape.first(answering):
                yield event(body)
            for body in shape.chunks(answering, begun):
                yield event(body)
            async for delta in deltas:
                for body in shape.chunks(answering, delta):
                    yield event(body)
            for body in shape.last(answering):
                yield event(body)
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            yield event(error.body)
        finally:
            answering.close()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def head(gateway: Gateway, answering: Answering, kind: str) -> dict[str, Any]:
    """What every body of OpenAI's API begins with."""
    return {
        "id": answering.caller.request_id,
        "object": kind,
        "created": int(time.time()),
        "model": gateway.model,
        "system_fingerprint": f"{gateway.context.version}-{gateway.context.precision}",
    } | answering.prompt_filter_results


def event(body: dict[str, Any]) -> bytes:
    """A body as a server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def _unless_gone(http: HttpRequest, work: Awaitable[T]) -> T:
    """Do the work, unless the client leaves first."""
    doing, leaving = asyncio.ensure_future(work), asyncio.create_task(_gone(http))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ApiError(499, "the client has left", code="client_left")
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
