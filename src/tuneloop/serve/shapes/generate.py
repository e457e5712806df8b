"""``POST /generate``: the simple door. A prompt in, a text out."""

from __future__ import annotations

from typing import Any

from tuneloop.serve.answer import TokenLogprob
from tuneloop.serve.answering import Answering, Delta
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.shapes.shape import Chunks, Shape


def shape(gateway: Gateway) -> Shape:
    """How the answer is told."""

    def end(answering: Answering) -> dict[str, Any]:
        said = answering.answers[0]
        known = {"id": answering.caller.request_id, "model": gateway.model, "finish_reason": said.finish}
        found = answering.filter_results(0) | answering.prompt_filter_results
        return known | {"usage": answering.usage} | found

    def chunks(_: Answering, delta: Delta) -> Chunks:
        for kind, text in delta.parts:
            yield {"text" if kind == "content" else kind: text}

    def last(answering: Answering) -> Chunks:
        yield end(answering)

    def whole(answering: Answering, _: list[list[TokenLogprob]]) -> dict[str, Any]:
        said = answering.answers[0]
        reasoning = {} if said.reasoning is None else {"reasoning": said.reasoning}
        return {"text": said.content, **reasoning} | end(answering)

    return Shape(whole, chunks, last)
