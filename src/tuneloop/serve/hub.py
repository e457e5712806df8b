"""Between the event loop and the engine's process: admission, and each request's own stream of events."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from tuneloop.engines import EngineProcess
from tuneloop.errors import ServeError
from tuneloop.serve.answer import Finish
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.metrics import Metrics
from tuneloop.serve.tally import Tally
from tuneloop.types import Request, TokenEvent

RETRY_S = (1, 60)
"""Shortest and longest Retry-After."""
SMOOTHING = 0.1
"""Weight of the newest request in the running mean of how long a place is taken."""


class Stream:
    """The events of the requests of one call, in one queue.

    Use it as a context manager: leaving it early cancels what still runs.
    """

    def __init__(self, hub: Hub, requests: Sequence[Request]) -> None:
        self._hub, self.requests = hub, tuple(requests)
        self.events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        now = time.monotonic()
        self.tallies = {request.id: Tally(request, now) for request in requests}

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        for request in self.requests:
            self._hub.leave(request.id)


class Hub:
    """Accepts as many requests as there is room for and hands out their events.

    Args:
        process: The engine.
        metrics: Where to count.
        max_queue: How many may wait beyond those that run.
    """

    def __init__(self, process: EngineProcess, metrics: Metrics, max_queue: int) -> None:
        self._process, self._metrics, self._max_queue = process, metrics, max_queue
        self._streams: dict[str, Stream] = {}
        self._placed: set[str] = set()
        self._line: dict[str, Tally] = {}
        self._background: set[str] = set()
        """Ids of requests that leave when others wait (``crowded``); the queue is counted without them."""
        self._mean_s = 1.0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining = False
        """Accepts nothing any more; what has been accepted goes on."""

    @property
    def capacity(self) -> int:
        """Requests that may be here at once."""
        return self._process.capabilities.max_running + self._max_queue

    @property
    def running(self) -> int:
        """Requests with a place in the engine. Engines take requests in order, so it is the first ``max_running``."""
        return len(self._placed)

    @property
    def waiting(self) -> int:
        """Accepted requests that wait for a place."""
        return len(self._line)

    @property
    def places(self) -> int:
        """How many requests the engine runs at once."""
        return self._process.capabilities.max_running

    @property
    def free(self) -> int:
        """Places that nobody has or waits for."""
        return max(0, self.places - len(self._streams))

    @property
    def crowded(self) -> int:
        """How many requests wait for places that background requests have."""
        waiting = len(self._streams) - self.places
        return min(waiting, len(self._background)) if len(self._streams) > len(self._background) else 0

    def deliver(self, events: list[TokenEvent]) -> None:
        """Take events: on the loop at once, from another thread on the loop's next turn."""
        if self.loop is None or self.loop.is_closed():
            return
        if asyncio._get_running_loop() is self.loop:  # None on a thread without one, where the other name raises
            self._dispatch(events)
        else:
            self.loop.call_soon_threadsafe(self._dispatch, events)

    def open(self, requests: Sequence[Request], *, background: bool = False) -> Stream:
        """Accept the requests of one call, all or none.

        Raises:
            ApiError: 429 when the queue is full, 503 when the engine is not ready or the gateway drains.
        """
        if self.draining:
            raise self._refuse(503, "this server is about to stop; ask another one", "draining", RETRY_S[0])
        if not self._process.ready:
            raise self._refuse(503, "the engine is starting; try again soon", "engine_not_ready", RETRY_S[0])
        if len(self._streams) - len(self._background) + len(requests) > self.capacity:
            wait = self._mean_s * len(self._streams) / self._process.capabilities.max_running
            seconds = min(max(math.ceil(wait), RETRY_S[0]), RETRY_S[1])
            raise self._refuse(429, "too many requests are waiting; try again later", "queue_full", seconds)
        stream = Stream(self, requests)
        for request in requests:
            self._streams[request.id] = stream
            if background:
                self._background.add(request.id)
            try:
                self._process.submit(request)
            except ServeError as error:
                del self._streams[request.id]
                self._background.discard(request.id)
                stream.__exit__()
                raise self._refuse(503, error.what, "engine_closed", RETRY_S[0]) from error
            self._metrics.accepted(len(request.prompt_ids))
            self._line[request.id] = stream.tallies[request.id]
            self._fill(stream.tallies[request.id].accepted)
        return stream

    def leave(self, request_id: str, finish: Finish | None = None) -> None:
        """The reader is done; what still runs is cancelled.

        Args:
            request_id: One that has left already is no error.
            finish: Why the answer is complete; None means as the engine says, or that the client has left.
        """
        stream = self._streams.pop(request_id, None)
        self._background.discard(request_id)
        if stream is None:
            return
        tally = stream.tallies[request_id]
        if tally.finish is None:
            tally.ended = time.monotonic()
            self._process.cancel(request_id)
            self._free(request_id, tally.ended)
            if finish is not None:
                self._lasted(tally, tally.ended)
        ended: Finish = finish or tally.finish or "cancelled"
        self._metrics.answered(tally, "error" if tally.finish == "error" else ended)

    def _fill(self, now: float) -> None:
        """Give free places to those that wait, in order."""
        while self._line and len(self._placed) < self._process.capabilities.max_running:
            request_id = next(iter(self._line))
            tally = self._line.pop(request_id)
            tally.placed = now
            self._placed.add(request_id)
            self._metrics.placed(tally)

    def _free(self, request_id: str, now: float) -> None:
        self._placed.discard(request_id)
        self._line.pop(request_id, None)
        self._fill(now)

    def _lasted(self, tally: Tally, now: float) -> None:
        """Note how long a request had its place; how long it waited for one follows from that and the queue."""
        if tally.placed is not None:
            self._mean_s += SMOOTHING * (now - tally.placed - self._mean_s)

    def _refuse(self, status: int, message: str, code: str, seconds: int) -> ApiError:
        return ApiError(status, message, code=code, headers={"Retry-After": str(seconds)})

    def _dispatch(self, events: list[TokenEvent]) -> None:
        now = time.monotonic()
        for event in events:
            if (stream := self._streams.get(event.request_id)) is not None:
                self._count(stream, event, now)
                stream.events.put_nowait(event)

    def _count(self, stream: Stream, event: TokenEvent, now: float) -> None:
        tally = stream.tallies[event.request_id]
        begun = tally.first_token is not None
        between = tally.take(event, now)
        if event.token_ids:
            self._metrics.generation_tokens.inc(len(event.token_ids))
        if between is not None:
            for _ in event.token_ids:  # every token counts once, whether it came alone or in a piece
                self._metrics.inter_token.observe(between)
        elif tally.first_token is not None and not begun:
            self._metrics.first_token(tally)
        if event.finish:
            self._lasted(tally, now)
            self._free(event.request_id, now)
