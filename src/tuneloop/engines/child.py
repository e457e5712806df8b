"""The child's side of ``EngineProcess``: ``python -m tuneloop.engines.child FD``.

One thread does everything: take commands, let the engine work, send what came of it. It ends with its parent.
"""

from __future__ import annotations

import select
import signal
import sys
import time
from multiprocessing.connection import Connection

from tuneloop.engines.base import Engine, EngineStats, ReportsStats
from tuneloop.engines.messages import (
    Cancel,
    Events,
    Failed,
    FromChild,
    Load,
    Ready,
    Score,
    Scored,
    Stats,
    Stop,
    Submit,
    ToChild,
)
from tuneloop.engines.pacing import Paced
from tuneloop.engines.platform import die_with_parent
from tuneloop.engines.registry import create
from tuneloop.errors import ServeError, TuneloopError
from tuneloop.every import Every
from tuneloop.types import Request, Sampling, TokenEvent

BUSY_POLL_S = 0.005
"""How long a new command can wait while the engine is busy."""
IDLE_POLL_S = 1.0
STATS_S = 1.0
"""How often the engine is asked about itself."""
WARM_UP = Request("warm-up", (0,), Sampling(max_tokens=1))


def main(handle: int) -> int:
    """Run until told to stop, or until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and a stopped unit reach the whole group; the parent drains
        signal.signal(number, signal.SIG_IGN)
    pipe: Connection[FromChild, ToChild] = Connection(handle)
    try:
        load = pipe.recv()
        assert isinstance(load, Load)
        die_with_parent(load.parent_pid)
        engine = _start(load, pipe)
        if engine is None:
            return 1
        try:
            _serve(engine, pipe, load.config.pace_s(engine.name))
        except TuneloopError as error:  # it says itself that it cannot go on
            pipe.send(_failed(error))
            return 1
        finally:
            engine.close()
    except (EOFError, ConnectionError):  # the parent is gone
        return 0
    return 0


def _start(load: Load, pipe: Connection[FromChild, ToChild]) -> Engine | None:
    """Load the model and make one token; only then is the engine ready."""
    try:
        engine = create(load.config, load.bundle)
        engine.submit(WARM_UP)
        ended: list[TokenEvent] = []
        while not ended:
            ended = [e for e in engine.poll(IDLE_POLL_S) if e.finish]
        if ended[0].finish == "error":
            raise ServeError(f"the engine cannot make a token: {ended[0].error}", where=engine.name)
    except TuneloopError as error:
        pipe.send(_failed(error))
        return None
    pipe.send(Ready(engine.name, engine.capabilities))
    return engine


def _failed(error: TuneloopError) -> Failed:
    return Failed(type(error), error.what, error.where, error.hint)


def _serve(engine: Engine, pipe: Connection[FromChild, ToChild], interval_s: float) -> None:
    held: set[str] = set()
    reporter, paced = _Reporter(engine, pipe), Paced(interval_s)
    readable = select.poll()  # ``Connection.poll`` makes a new selector every time
    readable.register(pipe, select.POLLIN)
    while True:
        while readable.poll(0 if held else IDLE_POLL_S * 1000):
            command = pipe.recv()
            if isinstance(command, Stop):
                return
            _obey(engine, pipe, command, held)
        reporter.report()
        events = engine.poll(BUSY_POLL_S if held else 0.0)  # idle, it may still find that it cannot go on
        held.difference_update(e.request_id for e in events if e.finish)
        if ready := paced.take(events, time.monotonic()):
            pipe.send(Events(ready))


class _Reporter:
    """Tells the parent what the engine knows about itself, when it has changed."""

    def __init__(self, engine: Engine, pipe: Connection[FromChild, ToChild]) -> None:
        self._engine, self._pipe = engine if isinstance(engine, ReportsStats) else None, pipe
        self._every, self._said = Every(STATS_S), EngineStats()

    def report(self) -> None:
        if self._engine is None or not self._every.due():
            return
        if (stats := self._engine.stats()) != self._said:
            self._said = stats
            self._pipe.send(Stats(stats))


def _obey(engine: Engine, pipe: Connection[FromChild, ToChild], command: ToChild, held: set[str]) -> None:
    if isinstance(command, Submit):
        try:
            engine.submit(command.request)
            held.add(command.request.id)
        except ServeError as error:
            pipe.send(Events([TokenEvent(command.request.id, finish="error", error=error.what)]))
    elif isinstance(command, Cancel):
        engine.cancel(command.request_id)
    elif isinstance(command, Score):
        try:
            pipe.send(Scored(engine.score(command.sequences)))
        except TuneloopError as error:
            pipe.send(Scored(None, error.what))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
