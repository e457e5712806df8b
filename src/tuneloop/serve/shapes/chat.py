"""``POST /v1/chat/completions``: OpenAI's chat."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import Any

from tuneloop.serve.answer import Answer, Part, TokenLogprob
from tuneloop.serve.answering import Answering, Delta
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.schema import ChatRequest
from tuneloop.serve.shapes.shape import Chunks, Shape, head

FIELD = {"reasoning": "reasoning_content", "content": "content"}


def shape(gateway: Gateway, body: ChatRequest) -> Shape:
    """How the answers to ``body`` are told."""
    called: Counter[int] = Counter()
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
            said = {} if part is None else _said(part, called[delta.index])
            called[delta.index] += part is not None and part[0] == "call"
            yield chunk(answering, delta.index, said, logprobs=logprobs)
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

    return Shape(whole, chunks, last, first)


def _said(part: Part, calls: int) -> dict[str, Any]:
    kind, text = part
    return {"tool_calls": [{"index": calls} | _call(text)]} if kind == "call" else {FIELD[kind]: text}


def _call(text: str) -> dict[str, Any]:
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": json.loads(text)}


def _message(said: Answer) -> dict[str, Any]:
    reasoning = {} if said.reasoning is None else {"reasoning_content": said.reasoning}
    calls = {"tool_calls": [_call(text) for text in said.calls]} if said.calls else {}
    content = said.content or (None if calls else "")
    return {"role": "assistant", "content": content, **reasoning, **calls}


def _logprobs(found: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
    def entry(token: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}

    content = [entry(t.token, t.logprob) | {"top_logprobs": [entry(*other) for other in t.top]} for t in found]
    return {"content": content, "refusal": None}
