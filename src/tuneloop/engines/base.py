"""The Engine seam: token-id requests in, token events out, with declared capabilities.

One thread drives an engine: it calls ``submit``, ``cancel`` and ``poll`` in turn. What a request cannot have comes back
as an event with an error, never as an exception and never as silence, so nothing is lost on the way.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tuneloop.errors import ServeError
from tuneloop.types import Request, TokenEvent

DENIED = "the request was refused: "
"""What the error of a request begins with that another server behind an engine took for the client's fault."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. What it lacks is refused by whoever faces the user, never ignored."""

    streaming: bool = True
    """Tokens arrive as they are made, not all at the end."""
    logprobs: bool = False
    """Events carry log-probabilities: of the chosen token, under the model's own distribution (temperature 1, no cut)."""
    seed: bool = False
    """The same seed gives the same tokens for a request that runs alone."""
    sampling: bool = False
    """Temperature, top_p and top_k are obeyed; without it every answer is greedy."""
    penalties: bool = False
    """``presence_penalty`` and ``frequency_penalty`` are obeyed."""
    logit_bias: bool = False
    """``logit_bias`` is obeyed."""
    top_logprobs: int = 0
    """The most alternatives beside each token."""
    grammar: bool = False
    """``grammar`` is obeyed: the answer is what it allows, or was cut at ``max_tokens``."""
    score: bool = False
    """``score`` works."""
    batch_invariant: bool = False
    """A greedy answer is the same token for token, whatever else runs beside it or ran before it."""
    max_context_tokens: int | None = None
    """The most tokens prompt and answer may have together; None when there is no limit."""
    max_running: int = 1
    """How many requests run at once; more wait inside the engine."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine knows about itself. None is what it does not know; counts are since its start."""

    kv_cache_usage: float | None = None
    """Share of the room for keys and values that requests hold, 0 to 1."""
    prefix_cache_queries: int | None = None
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_cache_hits: int | None = None
    """Those of them that did not have to be computed."""
    preemptions: int | None = None
    """How often a running request lost its room to another and was computed again."""


@runtime_checkable
class ReportsStats(Protocol):
    """An engine that knows something about itself. Not every engine does."""

    def stats(self) -> EngineStats:
        """What it knows now. Called between steps, at most once a second; it must be cheap."""
        ...


@runtime_checkable
class Engine(Protocol):
    """What every engine does."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def submit(self, request: Request) -> None:
        """Accept a request; it waits when ``max_running`` others run.

        Raises:
            ServeError: The engine is closed, or this id is already in flight.
        """
        ...

    def poll(self, timeout_s: float) -> list[TokenEvent]:
        """What has happened since the last call; waits up to ``timeout_s`` for the first event.

        The last event of a request has ``finish``. An engine may do its work inside this call.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Stop a request within one step; it ends with ``finish="cancelled"``. An unknown id is no error."""
        ...

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        """Log-probabilities of given tokens.

        Args:
            sequences: Pairs of token ids and an index k >= 1.

        Returns:
            For each pair, the natural logarithms of p(token i | tokens before i) for i = k, k+1 ...

        Raises:
            ServeError: The engine cannot score (see its capabilities).
        """
        ...

    def close(self) -> None:
        """Stop everything and free the model. Requests in flight end without an event. Can be called twice."""
        ...


def admit(request: Request, capabilities: Capabilities, *, closed: bool, held: bool) -> TokenEvent | None:
    """What an engine's ``submit`` begins with: the event that ends a request at once, or None when it may wait its turn.

    Args:
        request: What came.
        capabilities: Of the engine.
        closed: The engine is closed.
        held: It holds a request of this id already.

    Raises:
        ServeError: Closed, or held; both are mistakes of whoever drives the engine.
    """
    if closed:
        raise ServeError("the engine is closed")
    if held:
        raise ServeError(f"request {request.id} is already in flight")
    if problem := too_long(len(request.prompt_ids), capabilities.max_context_tokens):
        return TokenEvent(request.id, finish="error", error=problem)
    return None


def collect(events: queue.SimpleQueue[TokenEvent], timeout_s: float) -> list[TokenEvent]:
    """What other threads have put into an engine's queue; waits for the first event."""
    try:
        found = [events.get(timeout=timeout_s)]
    except queue.Empty:
        return []
    while not events.empty():
        found.append(events.get_nowait())
    return found


def too_long(prompt_tokens: int, context_tokens: int | None) -> str | None:
    """Why a prompt cannot be answered at all: it is empty, or leaves no room for a single token."""
    if prompt_tokens == 0:
        return "the prompt is empty"
    if context_tokens is not None and prompt_tokens >= context_tokens:
        return f"the prompt has {prompt_tokens} tokens and the context holds {context_tokens}, answer included"
    return None
