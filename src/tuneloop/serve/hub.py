"""Between the event loop and the engine's process: admission, and each request's own stream of events."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from tuneloop.engines import EngineProcess
from tuneloop.errors import ServeError
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.metrics import Metrics
from tuneloop.types import Request, TokenEvent

RETRY_S = (1, 60)
"""Shortest and longest Retry-After."""
SMOOTHING = 0.1
"""Weight of the newest request in the running mean of durations."""


class Stream:
    """The events of the requests of one call, in one queue.

    Use it as a context manager: leaving it early cancels what still runs.
    """

    def __init__(self, hub: Hub, requests: Sequence[Request]) -> None:
        self._hub, self.requests = hub, tuple(requests)
        self.events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self.accepted = time.monotonic()
        self.last_token: dict[str, float] = {}
        self.open = {request.id for request in requests}
        """Ids of those that have not ended."""

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
        self._background: set[str] = set()
        """Ids of requests that leave when others wait (``crowded``); the queue is counted without them."""
        self._mean_s = 1.0
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def capacity(self) -> int:
        return self._process.capabilities.max_running + self._max_queue

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
        """Take events from the engine's thread."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._dispatch, events)

    def open(self, requests: Sequence[Request], *, background: bool = False) -> Stream:
        """Accept the requests of one call, all or none.

        Raises:
            ApiError: 429 when the queue is full, 503 when the engine is not ready.
        """
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
            self._metrics.prompt_tokens.inc(len(request.prompt_ids))
        return stream

    def leave(self, request_id: str) -> None:
        """The reader is done; what has not ended is cancelled."""
        stream = self._streams.pop(request_id, None)
        self._background.discard(request_id)
        if stream is not None and request_id in stream.open:
            self._process.cancel(request_id)

    def gauge(self) -> None:
        """Bring the gauges up to date."""
        running = sum(key in stream.last_token for key, stream in self._streams.items())
        self._metrics.running.set(running)
        self._metrics.waiting.set(len(self._streams) - running)
        self._metrics.capacity.set(self.capacity)
        self._metrics.ready.set(self._process.ready)
        self._metrics.restarts.set(self._process.restarts)

    def _refuse(self, status: int, message: str, code: str, seconds: int) -> ApiError:
        self._metrics.error(code)
        return ApiError(status, message, code=code, headers={"Retry-After": str(seconds)})

    def _dispatch(self, events: list[TokenEvent]) -> None:
        now = time.monotonic()
        for event in events:
            if (stream := self._streams.get(event.request_id)) is not None:
                self._count(stream, event, now)
                stream.events.put_nowait(event)

    def _count(self, stream: Stream, event: TokenEvent, now: float) -> None:
        if event.token_ids:
            self._metrics.generation_tokens.inc(len(event.token_ids))
            before = stream.last_token.get(event.request_id)
            if before is None:
                self._metrics.first_token.observe(now - stream.accepted)
            else:
                self._metrics.inter_token.observe((now - before) / len(event.token_ids))
            stream.last_token[event.request_id] = now
        if event.finish:
            stream.open.discard(event.request_id)
            total = now - stream.accepted
            self._mean_s += SMOOTHING * (total - self._mean_s)
            self._metrics.end_to_end.observe(total)
            self._metrics.model_latency.observe(total)
            self._metrics.error("engine") if event.finish == "error" else self._metrics.success(event.finish)
