"""What the shapes share."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tuneloop.serve.answer import TokenLogprob
from tuneloop.serve.answering import Answering, Delta
from tuneloop.serve.gateway import Gateway

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

    async def stream(self, answering: Answering) -> AsyncGenerator[dict[str, Any], None]:
        """The bodies of all events, the first one not before there is something to say.

        Raises:
            ApiError: The engine failed, the time is over, or the client has left.
        """
        begun = False
        async for delta in answering:
            if not begun:
                begun = True
                for body in self.first(answering):
                    yield body
            for body in self.chunks(answering, delta):
                yield body
        for body in self.last(answering):
            yield body


def head(gateway: Gateway, answering: Answering, kind: str) -> dict[str, Any]:
    """What every body of OpenAI's API begins with."""
    return {
        "id": answering.caller.request_id,
        "object": kind,
        "created": int(time.time()),
        "model": gateway.model,
        "system_fingerprint": f"{gateway.context.version}-{gateway.context.precision}",
    } | answering.prompt_filter_results
