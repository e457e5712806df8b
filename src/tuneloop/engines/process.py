"""An engine in a supervised child process: a crash or a hang costs a restart, not the gateway.

Health means progress: a child that holds requests and emits no token for ``stall_timeout_s`` is killed, and so is one
that holds more memory than ``max_memory_bytes``. When a child dies, a request that had no token yet is given to the next one, once; the others end with an error event. Restarts back
off from half a second to half a minute.
"""

from __future__ import annotations

import asyncio
import enum
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from tuneloop.engines.base import Capabilities, EngineStats
from tuneloop.engines.child_handle import ChildHandle, LoopReader
from tuneloop.engines.config import EngineConfig
from tuneloop.engines.memory import MemoryLimit
from tuneloop.engines.messages import (
    Cancel,
    Events,
    FromChild,
    Ready,
    Score,
    Scored,
    Stats,
    Stop,
    Submit,
    ToChild,
)
from tuneloop.engines.registry import choose
from tuneloop.errors import ServeError, TuneloopError
from tuneloop.progress import log
from tuneloop.types import FinishReason, Request, TokenEvent

if TYPE_CHECKING:
    from tuneloop.models import Bundle

TICK_S = 0.25
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 0.5, 30.0
HEALTHY_S = 60.0
"""A child that lived this long after it was ready resets the back-off."""
STOP_S = 5.0
LAST_WORDS_S = 2.0
"""A child that has closed its pipe gets this long to print its traceback and exit."""

Deliver = Callable[[list[TokenEvent]], None]


class State(enum.Enum):
    """Where the child is."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    CLOSED = "closed"


@dataclass(slots=True)
class _Held:
    """A request that has been accepted and has not ended."""

    request: Request
    tokens: int = 0
    retried: bool = False
    cancelled: bool = False


class EngineProcess:
    """Starts, watches and restarts the child. May be used from any thread.

    Args:
        config: The engine to run in it.
        bundle: The model (None only for the fake engine).
        deliver: Is given the token events in lists, on the supervising thread or where ``read_on`` says. It must not
            block.
    """

    def __init__(self, config: EngineConfig, bundle: Bundle | None, deliver: Deliver) -> None:
        if config.name == "auto":  # decided and said once, here
            name, reason = choose(config, bundle)
            log(f"engine: {name}, because {reason}")
            config = config.model_copy(update={"name": name})
        self._memory = MemoryLimit(config.max_memory_bytes, os.getpid())  # says now what it lacks
        self.config, self.bundle = config, bundle
        self.name = config.name
        self.capabilities = Capabilities()
        self.state = State.STARTING
        self.restarts = 0
        self.last_failure: str | None = None
        self.stats = EngineStats()
        self._deliver = deliver
        self._held: dict[str, _Held] = {}
        self._lock = threading.RLock()
        self._child: ChildHandle | None = None
        self._progress_at = time.monotonic()
        self._ready_at: float | None = None
        self._started = threading.Event()
        self._error: TuneloopError | None = None
        self._closing = threading.Event()
        self._scoring: Future[Scored] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._supervise, name="engine-supervisor", daemon=True)

    def start(self, *, wait: bool = True) -> EngineProcess:
        """Start the child; with ``wait``, return when it has made its first token.

        Raises:
            TuneloopError: It cannot start; the child says why (``ModelError``, ``MissingExtraError`` ...).
        """
        self._thread.start()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Block until the first child is ready or has failed; see ``start``."""
        self._started.wait()
        if self._error is not None:
            raise self._error

    def read_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have an event loop take what the child says: one thread less between a token and who waits for it.

        ``deliver`` is called on the loop from then on; what the supervising thread has to say still comes on that.
        """
        self._loop = loop

    def __enter__(self) -> EngineProcess:
        return self if self._thread.is_alive() else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        child = self._child
        return child.pid if child else None

    @property
    def ready(self) -> bool:
        """Whether tokens can flow now."""
        return self.state is State.READY

    @property
    def silent_s(self) -> float:
        """How long requests have been held without a token, in seconds; 0 while none is held."""
        return time.monotonic() - self._progress_at if self._held else 0.0

    @property
    def in_flight(self) -> int:
        return len(self._held)

    def submit(self, request: Request) -> None:
        """Accept a request. While the child restarts it waits for the next one.

        Raises:
            ServeError: Closed, or this id is already in flight.
        """
        with self._lock:
            if self._closing.is_set() or self.state is State.CLOSED:
                raise ServeError("the engine is closed")
            if request.id in self._held:
                raise ServeError(f"request {request.id} is already in flight")
            if not self._held:
                self._progress_at = time.monotonic()
            self._held[request.id] = _Held(request)
            self._send(Submit(request))

    def cancel(self, request_id: str) -> None:
        """Stop a request; it ends with a ``cancelled`` event. An unknown id is no error."""
        with self._lock:
            if (held := self._held.get(request_id)) is None:
                return
            held.cancelled = True
            if self.state is State.READY:
                self._send(Cancel(request_id))
                return
            del self._held[request_id]
        self._deliver([TokenEvent(request_id, finish="cancelled")])

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        """See ``Engine.score``; one caller at a time."""
        with self._lock:
            if self.state is not State.READY:
                raise ServeError("the engine is not ready")
            future: Future[Scored] = Future()
            self._scoring = future
            self._send(Score(sequences))
        scored = future.result()
        if scored.values is None:
            raise ServeError(scored.error or "the engine cannot score")
        return scored.values

    def close(self) -> None:
        """Stop the child. Requests in flight end with ``cancelled`` events. Can be called twice, not on the loop."""
        with self._lock:
            self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.state = State.CLOSED

    def _send(self, message: ToChild) -> None:
        """Send to a ready child; what a child in the making has missed is sent when it is ready. Lock is held."""
        if self._child is not None and self.state is State.READY:
            self._child.send(message)

    # ---- the supervising thread ----

    def _supervise(self) -> None:
        back_off = FIRST_BACK_OFF_S
        while True:
            reason = self._live()
            if self._closing.is_set() or not self._started.is_set():
                break  # told to end, or it never came up
            self.last_failure, self.restarts = reason, self.restarts + 1
            self._settle(reason)
            lived = time.monotonic() - self._ready_at if self._ready_at else 0.0
            back_off = FIRST_BACK_OFF_S if lived > HEALTHY_S else back_off
            log(f"engine: {reason}; starting it again in {back_off:g} s")
            self._closing.wait(back_off)
            back_off = min(back_off * 2, LONGEST_BACK_OFF_S)
        if not self._started.is_set() and not self._closing.is_set():
            self._error = self._error or ServeError(f"the engine did not start: {reason}", where=self.config.name)
        self.state = State.CLOSED
        self._started.set()
        self._give_up("cancelled", None, list(self._held.values()))

    def _live(self) -> str:
        """The whole life of one child; says how it ended."""
        self._ready_at, self.stats = None, EngineStats()
        child = ChildHandle(self.config, self.bundle)
        with self._lock:
            self._child = child
        try:
            problem, patience_s = self._listen(child), 0.0
        except EOFError:
            problem, patience_s = None, LAST_WORDS_S
        with self._lock:
            self.state, self._child = State.RESTARTING, None
        if self._closing.is_set():
            child.send(Stop())
            patience_s = STOP_S
        end = child.end(patience_s)
        reason = problem or f"the engine process died ({end})"
        if self._scoring is not None and not self._scoring.done():
            self._scoring.set_result(Scored(None, reason))
        return reason

    def _listen(self, child: ChildHandle) -> str:
        """Watch until the child must go; says why. Raises EOFError when it has died by itself."""
        born = time.monotonic()
        self._memory = MemoryLimit(self.config.max_memory_bytes, child.pid)
        reader: LoopReader | None = None
        try:
            while not self._closing.is_set():
                if reader is None and self._loop is not None and self._ready_at is not None:
                    reader = LoopReader(self._loop, child, self._take)
                if reader is not None:
                    problem = reader.wait(TICK_S)
                else:
                    problem = self._take(child.read() if child.unread(TICK_S) else [])
                if problem := problem or self._memory.problem() or self._overdue(born, child):
                    return problem
        finally:
            if reader is not None:
                reader.close()
        return "closed"

    def _overdue(self, born: float, child: ChildHandle) -> str | None:
        """What it should have done by now. What it has said and nobody has read yet may be that."""
        now, config = time.monotonic(), self.config
        if self._ready_at is None:
            if now - born > config.start_timeout_s and not child.unread():
                return f"it was not ready after {config.start_timeout_s:g} s (engine.start_timeout_s)"
        elif self._held and now - self._progress_at > config.stall_timeout_s and not child.unread():
            return f"no token for {config.stall_timeout_s:g} s with {len(self._held)} requests running"
        return None

    def _take(self, messages: list[FromChild]) -> str | None:
        """Act on what the child says; returns why it must go, or None."""
        for message in messages:
            if isinstance(message, Events):
                self._account(message.events)
                self._deliver(message.events)
            elif isinstance(message, Stats):
                self.stats = message.stats
            elif isinstance(message, Ready):
                if problem := self._memory.problem(now=True):  # a model that is too big never becomes ready
                    return problem
                self._on_ready(message)
            elif isinstance(message, Scored):
                if self._scoring is not None:
                    self._scoring.set_result(message)
            else:
                self._error = message.to_error() if not self._started.is_set() else None
                return message.what
        return None

    def _on_ready(self, message: Ready) -> None:
        with self._lock:
            self.name, self.capabilities, self.state = message.name, message.capabilities, State.READY
            self._ready_at = self._progress_at = time.monotonic()
            for held in self._held.values():
                self._send(Submit(held.request))
        self._started.set()

    def _account(self, events: list[TokenEvent]) -> None:
        with self._lock:
            self._progress_at = time.monotonic()
            for event in events:
                if (held := self._held.get(event.request_id)) is not None:
                    held.tokens += len(event.token_ids)
                    if event.finish:
                        del self._held[event.request_id]

    def _settle(self, reason: str) -> None:
        """After a death: a request without a token may try once more, the others get their error."""
        with self._lock:
            lost = [h for h in self._held.values() if h.tokens or h.retried or h.cancelled]
            for held in self._held.values():
                held.retried = True
        self._give_up("error", reason, lost)

    def _give_up(self, finish: FinishReason, error: str | None, lost: list[_Held]) -> None:
        with self._lock:
            for held in lost:
                del self._held[held.request.id]
        cancelled = ("cancelled", None)
        ends = [(h.request.id, *(cancelled if h.cancelled else (finish, error))) for h in lost]
        if events := [TokenEvent(name, finish=how, error=why) for name, how, why in ends]:
            self._deliver(events)
