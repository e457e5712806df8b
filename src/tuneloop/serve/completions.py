"""``POST /v1/chat/completions``: a request body -> token ids -> an engine -> an answer, whole or as it comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from tuneloop.errors import DataError
from tuneloop.serve.answer import Answer
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.hub import Stream
from tuneloop.serve.schema import ChatRequest
from tuneloop.types import Context, Request, Sampling, TokenEvent

T = TypeVar("T")

LONG_PROMPT_CHARACTERS = 20_000
"""Longer prompts are tokenised on a thread, so that the others' tokens keep flowing."""
CONVERSATION_HEADER = "x-conversation-id"


async def complete(gateway: Gateway, http: HttpRequest, body: ChatRequest) -> Response:
    """Answer one request.

    Raises:
        ApiError: It cannot be answered.
    """
    body.refuse_unsupported()
    if body.model not in (None, gateway.model):
        raise ApiError(404, f"there is no model {body.model!r} here", param="model", code="model_not_found")
    text, prompt_ids = await _prompt(gateway, body)
    request = Request(
        http.state.request_id,
        prompt_ids,
        _sampling(gateway, body, len(prompt_ids)),
        gateway.chat.stop_ids,
        _context(gateway, http, body),
    )
    answer = Answer(gateway.chat, text, body.stops)
    stream = gateway.hub.open(request)
    try:
        if body.stream:
            return await _streamed(gateway, http, body, stream, answer)
        await _unless_gone(http, _collect(stream, answer))
    except BaseException:
        gateway.hub.leave(stream)
        raise
    gateway.hub.leave(stream)
    return JSONResponse(_whole(gateway, stream, answer))


async def _prompt(gateway: Gateway, body: ChatRequest) -> tuple[str, tuple[int, ...]]:
    messages = [m.to_message() for m in body.messages]

    def render() -> tuple[str, tuple[int, ...]]:
        return gateway.chat.render(messages, generation=True), gateway.chat.prompt_ids(messages)

    try:
        if sum(len(m.content) for m in messages) > LONG_PROMPT_CHARACTERS:
            return await asyncio.to_thread(render)
        return render()
    except DataError as error:
        raise ApiError(400, error.what, param="messages", code="invalid_messages") from error


def _sampling(gateway: Gateway, body: ChatRequest, prompt_tokens: int) -> Sampling:
    can, config = gateway.process.capabilities, gateway.config
    temperature = config.temperature if body.temperature is None else body.temperature
    if temperature and not can.sampling:
        raise ApiError(400, "this engine only gives greedy answers", param="temperature", code="unsupported_parameter")
    if body.seed is not None and not can.seed:
        raise ApiError(400, "this engine takes no seed", param="seed", code="unsupported_parameter")
    room = None if can.max_context_tokens is None else can.max_context_tokens - prompt_tokens
    wanted = body.answer_tokens
    if room is not None and (room < 1 or (wanted is not None and wanted > room)):
        raise ApiError(
            400,
            f"the context holds {can.max_context_tokens} tokens; the messages have {prompt_tokens}"
            + (f" and {wanted} were asked for" if wanted else ""),
            param="messages" if room < 1 else "max_tokens",
            code="context_length_exceeded",
        )
    limit = wanted or (config.max_tokens if room is None else min(config.max_tokens, room))
    top_p = 1.0 if body.top_p is None else body.top_p
    return Sampling(limit, temperature, top_p, max(body.top_k or 0, 0), body.seed)


def _context(gateway: Gateway, http: HttpRequest, body: ChatRequest) -> Context:
    known = gateway.context
    return Context(
        known.model,
        known.version,
        known.arm,
        known.precision,
        user=body.user or http.state.key.id,
        conversation=http.headers.get(CONVERSATION_HEADER, "")[:256],
    )


async def _unless_gone(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, unless the client leaves first."""
    doing, leaving = asyncio.create_task(work), asyncio.create_task(_gone(http))
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


async def _collect(stream: Stream, answer: Answer) -> None:
    async for event in stream:
        answer.add(event)
        _raise_error(event)
        if answer.finish:
            return


def _raise_error(event: TokenEvent) -> None:
    if event.finish in ("error", "cancelled"):
        raise ApiError(500, f"the engine failed: {event.error or 'it was stopped'}", code="engine_error")


async def _streamed(gateway: Gateway, http: HttpRequest, body: ChatRequest, stream: Stream, answer: Answer) -> Response:
    """Answer as server-sent events. The status waits for the first token, so that an early failure is not a 200."""
    first = await _unless_gone(http, stream.events.get())
    _raise_error(first)
    usage = body.stream_options is not None and body.stream_options.include_usage
    return StreamingResponse(
        _events(gateway, stream, answer, first, usage=usage),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    gateway: Gateway, stream: Stream, answer: Answer, first: TokenEvent, *, usage: bool
) -> AsyncIterator[bytes]:
    head = _head(gateway, stream, "chat.completion.chunk")
    try:
        yield _chunk(head, {"role": "assistant", "content": ""}, None, usage)
        event = first
        while True:
            for kind, text in answer.add(event):
                yield _chunk(head, {"reasoning_content" if kind == "reasoning" else "content": text}, None, usage)
            if event.finish in ("error", "cancelled"):
                error = ApiError(500, f"the engine failed: {event.error or 'it was stopped'}", code="engine_error")
                yield _data(error.body)
                return
            if answer.finish:
                break
            event = await stream.events.get()
        yield _chunk(head, {}, answer.finish, usage)
        if usage:
            yield _data(head | {"choices": [], "usage": _usage(stream, answer)})
        yield b"data: [DONE]\n\n"
    finally:
        gateway.hub.leave(stream)


def _head(gateway: Gateway, stream: Stream, kind: str) -> dict[str, Any]:
    fingerprint = f"{gateway.context.version}-{gateway.context.precision}"
    return {
        "id": stream.request.id,
        "object": kind,
        "created": int(time.time()),
        "model": gateway.model,
        "system_fingerprint": fingerprint,
    }


def _chunk(head: dict[str, Any], delta: dict[str, str], finish: str | None, usage: bool) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return _data(head | {"choices": [choice]} | ({"usage": None} if usage else {}))


def _data(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def _whole(gateway: Gateway, stream: Stream, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
    choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    return _head(gateway, stream, "chat.completion") | {"choices": [choice], "usage": _usage(stream, answer)}


def _usage(stream: Stream, answer: Answer) -> dict[str, int]:
    prompt = len(stream.request.prompt_ids)
    return {"prompt_tokens": prompt, "completion_tokens": answer.tokens, "total_tokens": prompt + answer.tokens}
