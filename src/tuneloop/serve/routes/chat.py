"""``POST /v1/chat/completions``: OpenAI's chat."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tuneloop.serve.answer import Answer, Part, TokenLogprob
from tuneloop.serve.answering import Answering, Delta
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.routes.answers import Chunks, answer, caller, head
from tuneloop.serve.schema import ChatRequest

FIELD = {"reasoning": "reasoning_content", "content": "content"}


def add(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(http: HttpRequest, body: ChatRequest) -> Response:
        usage: dict[str, Any] = {"usage": None} if body.usage_wanted else {}

        def chunk(answering: Answering, index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
            choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None} | more
            return head(gateway, answering, "chat.completion.chunk") | {"choices": [choice]} | usage

        def first(answering: Answering) -> Chunks:
            for i in range(len(answering.answers)):
                yield chunk(answering, i, {"role": "assistant", "content": ""})

        def chunks(answering: Answering, delta: Delta) -> Chunks:
            logprobs = _logprobs(delta.logprobs) if body.logprobs else None
            for part in delta.parts or [None] * bool(delta.logprobs):
                yield chunk(answering, delta.index, _said(part), logprobs=logprobs)
                logprobs = None
            if delta.finish:
                found = answering.filter_results(delta.index)
                yield chunk(answering, delta.index, {}, finish_reason=delta.finish, **found)

        def last(answering: Answering) -> Chunks:
            if usage:
                yield head(gateway, answering, "chat.completion.chunk") | {"choices": [], "usage": answering.usage}

        def whole(answering: Answering, logprobs: list[list[TokenLogprob]]) -> dict[str, Any]:
            choices = [
                {
                    "index": i,
                    "message": _message(said),
                    "finish_reason": said.finish,
                    "logprobs": _logprobs(found) if body.logprobs else None,
                }
                | answering.filter_results(i)
                for i, (said, found) in enumerate(zip(answering.answers, logprobs, strict=True))
            ]
            return head(gateway, answering, "chat.completion") | {"choices": choices, "usage": answering.usage}

        who = caller(http, "chatcmpl", body.user)
        return await answer(
            gateway,
            http,
            body.asked(),
            who,
            whole=whole,
            chunks=chunks if body.stream else None,
            first=first,
            last=last,
        )


def _said(part: Part | None) -> dict[str, Any]:
    return {} if part is None else {FIELD[part[0]]: part[1]}


def _message(said: Answer) -> dict[str, Any]:
    reasoning = {} if said.reasoning is None else {"reasoning_content": said.reasoning}
    return {"role": "assistant", "content": said.content, **reasoning}


def _logprobs(found: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
    def entry(token: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}

    content = [entry(t.token, t.logprob) | {"top_logprobs": [entry(*other) for other in t.top]} for t in found]
    return {"content": content, "refusal": None}
