"""``EngineProcess`` as an ``Engine``: for whoever wants to poll."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from tuneloop.engines.base import Capabilities
from tuneloop.engines.config import EngineConfig
from tuneloop.engines.process import EngineProcess
from tuneloop.types import Request, TokenEvent

if TYPE_CHECKING:
    from tuneloop.models import Bundle


class ProcessEngine:
    """An engine that lives in a supervised child process.

    Args:
        bundle: The model (None only for the fake engine).
        config: The engine to run in the child.
    """

    def __init__(self, bundle: Bundle | None, config: EngineConfig) -> None:
        self._events: queue.SimpleQueue[list[TokenEvent]] = queue.SimpleQueue()
        self.process = EngineProcess(config, bundle, self._events.put)
        self.process.start()
        self._closed = False

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def capabilities(self) -> Capabilities:
        return self.process.capabilities

    def submit(self, request: Request) -> None:
        self.process.submit(request)

    def poll(self, timeout_s: float) -> list[TokenEvent]:
        if self._closed:
            return []
        try:
            events = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return []
        while not self._events.empty():
            events = events + self._events.get_nowait()
        return events

    def cancel(self, request_id: str) -> None:
        self.process.cancel(request_id)

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        return self.process.score(sequences)

    def close(self) -> None:
        self._closed = True
        self.process.close()
