"""What is noted about one request between its acceptance and its end. Times are ``time.monotonic()``, in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tuneloop.engines import DENIED, REFUSED
from tuneloop.types import FinishReason, Request, TokenEvent


@dataclass(slots=True)
class Tally:
    """The course of a request."""

    request: Request
    accepted: float
    placed: float | None = None
    """When the engine had a place for it: fewer than ``max_running`` others were before it."""
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None
    finish: FinishReason | None = None
    """How the engine ended it; None while it runs, and for ever where its reader ended it."""
    refused: bool = False
    """The engine ended it for a fault of the client's, such as a schema that it cannot keep to."""
    tokens: int = 0
    logprob_sum: float = field(default=0.0)
    logprobs: int = 0

    def take(self, event: TokenEvent, now: float) -> float | None:
        """Note an event; returns the seconds between tokens, once there are two."""
        if event.finish:
            self.finish, self.ended = event.finish, now
            self.refused = event.error is not None and event.error.startswith((REFUSED, DENIED))
        if not event.token_ids:
            return None
        before, self.last_token = self.last_token, now
        self.tokens += len(event.token_ids)
        for logprob in event.logprobs:
            if not math.isnan(logprob):  # engines are not trusted: one NaN would spoil the sum for ever
                self.logprob_sum += min(logprob, 0.0)
                self.logprobs += 1
        if before is None:
            self.first_token = now
            return None
        return (now - before) / len(event.token_ids)

    @property
    def queue_s(self) -> float | None:
        return None if self.placed is None else self.placed - self.accepted

    @property
    def first_token_s(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.accepted

    @property
    def confidence(self) -> float | None:
        """Mean token probability: exp of the mean logarithm, so the geometric mean; None where the engine says nothing."""
        return math.exp(self.logprob_sum / self.logprobs) if self.logprobs else None
