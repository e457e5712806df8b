"""Many requests through one engine: responses in request order, none lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tuneloop.engines.base import Engine
from tuneloop.errors import ServeError
from tuneloop.progress import Progress
from tuneloop.types import FinishReason, Request, Response, TokenEvent

POLL_S = 0.5


def generate(
    engine: Engine,
    requests: Sequence[Request],
    *,
    label: str = "generating",
    concurrency: int = 32,
    on_response: Callable[[Response], None] | None = None,
) -> list[Response]:
    """Answer all requests.

    Args:
        engine: Is driven until everything has ended; it stays open.
        requests: Their ids must differ.
        label: What the progress line says.
        concurrency: How many are submitted at a time.
        on_response: Is called with each response the moment it ends, in order of arrival.

    Returns:
        One response a request, in the same order. What failed has ``finish="error"`` and the reason.
    """
    if len({r.id for r in requests}) != len(requests):
        raise ValueError("two requests have the same id")
    open_: dict[str, _Growing] = {}
    done: dict[str, Response] = {}
    waiting = iter(requests)
    tokens, started = 0, time.monotonic()
    try:
        with Progress(label, len(requests), "requests") as progress:
            _submit(engine, waiting, open_, concurrency)
            while open_:
                for event in engine.poll(POLL_S):
                    growing = open_.get(event.request_id)
                    if growing is None:
                        continue
                    tokens += len(event.token_ids)
                    if response := growing.add(event):
                        done[response.request_id] = response
                        if on_response is not None:
                            on_response(response)
                        del open_[response.request_id]
                        speed = tokens / max(time.monotonic() - started, 1e-9)
                        progress.update(note=f"{speed:.0f} tokens/s")
                _submit(engine, waiting, open_, concurrency)
    finally:
        for request_id in open_:
            engine.cancel(request_id)
    return [done[r.id] for r in requests]


@dataclass(slots=True)
class _Growing:
    """A response while it arrives."""

    request_id: str
    since: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, event: TokenEvent) -> Response | None:
        if event.token_ids and self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.since
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs
        return self.end(event.finish, event.error) if event.finish else None

    def end(self, finish: FinishReason, error: str | None) -> Response:
        total = time.monotonic() - self.since
        first = total if self.first_token_s is None else self.first_token_s
        known = len(self.logprobs) == len(self.token_ids)  # one token without a value makes the whole list unusable
        logprobs = tuple(self.logprobs) if known else ()
        return Response(self.request_id, tuple(self.token_ids), finish, first, total, logprobs, error)


def _submit(engine: Engine, waiting: Iterator[Request], open_: dict[str, _Growing], concurrency: int) -> None:
    while len(open_) < concurrency and (request := next(waiting, None)) is not None:
        open_[request.id] = _Growing(request.id)
        try:
            engine.submit(request)
        except ServeError:
            del open_[request.id]
            raise
