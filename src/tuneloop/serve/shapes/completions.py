"""``POST /v1/completions``: OpenAI's older interface, text continued as it stands."""

from __future__ import annotations

from typing import Any

from tuneloop.serve.answer import TokenLogprob
from tuneloop.serve.answering import Answering, Delta
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.schema import CompletionRequest
from tuneloop.serve.shapes.shape import Chunks, Shape, head


def shape(gateway: Gateway, body: CompletionRequest) -> Shape:
    """How the answers to ``body`` are told."""
    usage: dict[str, Any] = {"usage": None} if body.usage_wanted else {}
    offsets: dict[int, int] = {}

    def choice(index: int, text: str, found: list[TokenLogprob], finish: str | None) -> dict[str, Any]:
        at = offsets.get(index, 0)
        logprobs = _logprobs(found, at) if body.logprobs is not None else None
        offsets[index] = at + sum(len(t) for t in logprobs["tokens"]) if logprobs else 0
        return {"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}

    def chunks(answering: Answering, delta: Delta) -> Chunks:
        text = "".join(said for _, said in delta.parts)
        one = choice(delta.index, text, list(delta.logprobs), delta.finish)
        one |= answering.filter_results(delta.index) if delta.finish else {}
        yield head(gateway, answering, "text_completion") | {"choices": [one]} | usage

    def last(answering: Answering) -> Chunks:
        if usage:
            yield head(gateway, answering, "text_completion") | {"choices": [], "usage": answering.usage}

    def whole(answering: Answering, logprobs: list[list[TokenLogprob]]) -> dict[str, Any]:
        said = enumerate(zip(answering.answers, logprobs, strict=True))
        choices = [choice(i, a.content, found, a.finish) | answering.filter_results(i) for i, (a, found) in said]
        return head(gateway, answering, "text_completion") | {"choices": choices, "usage": answering.usage}

    return Shape(whole, chunks, last)


def _logprobs(found: list[TokenLogprob], offset: int) -> dict[str, Any]:
    out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in found:
        text = token.token.decode("utf-8", "replace")
        out["tokens"].append(text)
        out["token_logprobs"].append(token.logprob)
        out["top_logprobs"].append({other.decode("utf-8", "replace"): value for other, value in token.top})
        out["text_offset"].append(offset)
        offset += len(text)
    return out
