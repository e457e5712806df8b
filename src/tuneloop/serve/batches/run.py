"""One batch while it runs: free places are filled, places are given back when others wait, every outcome is kept."""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tuneloop.errors import ResourceError
from tuneloop.progress import log
from tuneloop.serve import bodies
from tuneloop.serve.answering import Answering
from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.serve.asked import Caller
from tuneloop.serve.batches.files import Folder
from tuneloop.serve.batches.ledger import BatchRow, Ledger
from tuneloop.serve.batches.lines import Line, body_at
from tuneloop.serve.batches.results import Outcome, Results
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.keys import Key

TICK_S = 0.02
"""How soon a request that waits is noticed."""
LOOK_S = 1.0
"""How soon a cancellation that another process wrote is noticed, and how old the counts in the database may be."""
LONGEST_WAIT_S = 60.0
"""A key's quota of tokens may be used up until tomorrow: it is tried again this often."""
NOT_NOW = frozenset({429, 499, 503})
"""Statuses that say nothing about the request: it is asked again."""


@dataclass(slots=True)
class _Asked:
    line: Line
    tries: int = 0
    opened: bool = False
    """The hub counts its requests."""


class Run:
    """See the module.

    Args:
        gateway: Answers.
        ledger: Is told how far it is.
        folder: Has the files.
        row: The batch.
        owner: Gives its owner's key, as long as that is valid.
        pending: Lines without an outcome.
        results: Where outcomes go.
    """

    def __init__(
        self,
        gateway: Gateway,
        ledger: Ledger,
        folder: Folder,
        row: BatchRow,
        owner: Callable[[], Key | None],
        pending: list[Line],
        results: Results,
    ) -> None:
        self._gateway, self._ledger, self._folder, self._row, self._owner = gateway, ledger, folder, row, owner
        self._pending = deque(_Asked(line) for line in pending)
        self._running: dict[asyncio.Task[Outcome | None], _Asked] = {}
        self._results = results
        self._looked = time.monotonic()
        self._not_before = 0.0
        """When the gateway takes requests again, on the monotonic clock."""
        self.stopping = False

    async def go(self) -> str | None:
        """Run until all lines have an outcome, or it must stop.

        Returns:
            ``completed``, ``cancelled``, ``expired``; None when the gateway ends first.

        Raises:
            OSError: An outcome cannot be written; those that are written stay.
        """
        try:
            while self._pending or self._running:
                if ended := await self._look():
                    return ended
                if self.stopping or self._gateway.draining:
                    return None
                self._give_way()
                self._fill()
                await self._wait()
            return "completed"
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _look(self) -> str | None:
        """Once in a while: write the counts, hear of a cancellation."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return None
        self._looked = now
        if self._owner() is None:
            return "cancelled"
        results, known = self._results, self._row.id
        try:
            await asyncio.to_thread(self._ledger.count, known, results.completed, results.failed)
            row = await asyncio.to_thread(self._ledger.batch, known)
        except ResourceError as error:  # the answers go into files: no reason to stop
            log(f"batch {known} goes on: {error.what}")
            row = self._row
        if row is None or row.status == "cancelling":
            return "cancelled"
        return "expired" if time.time() >= row.expires_s else None

    def _give_way(self) -> None:
        """Others wait: the requests that began last leave, and are asked again later."""
        need = self._gateway.hub.crowded
        for task in reversed(self._running):
            if need <= 0:
                return
            if not task.done() and task.cancel():
                need -= self._running[task].line.size

    def _fill(self) -> None:
        hub, most = self._gateway.hub, self._gateway.config.batches.concurrency
        used = sum(asked.line.size for asked in self._running.values())
        free = hub.free - sum(asked.line.size for asked in self._running.values() if not asked.opened)
        if time.monotonic() < self._not_before:
            return
        while self._pending and self._gateway.ready:
            size = self._pending[0].line.size
            alone = hub.free == hub.places and not self._running  # a line that is larger than the engine
            if not alone and (size > free or (most is not None and used + size > most)):
                return
            asked = self._pending.popleft()
            asked.tries, asked.opened = asked.tries + 1, False
            self._running[asyncio.create_task(self._ask(asked))] = asked
            used, free = used + size, free - size

    async def _wait(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(TICK_S)
        outcomes = []
        for task in [t for t in self._running if t.done()]:
            asked = self._running.pop(task)
            asked.tries -= task.cancelled()
            outcome = None if task.cancelled() else task.result()
            if outcome is None:
                self._pending.appendleft(asked)
            else:
                outcomes.append(outcome)
        if outcomes:
            await asyncio.to_thread(self._results.append, outcomes)

    async def _ask(self, asked: _Asked) -> Outcome | None:
        """What the live route would answer; None when it must be asked again."""
        body, name = {}, uuid.uuid4().hex
        try:
            values = body_at(self._folder.file(self._row.input_file), asked.line)
            call = bodies.read(self._gateway, self._row.endpoint, values)
            name = f"{call.kind}-{name}"
            if call.body.stream:
                raise unsupported("stream", "a batch cannot stream")
            key = self._owner()
            if key is None:
                return None  # the next look ends the batch
            caller = Caller(name, key, call.body.user or "", background=True)
            answering = await Answering.begin(self._gateway, call.asked, caller)
            asked.opened = True
            try:
                body = call.shape.whole(answering, await answering.collect())
            finally:
                answering.close()
        except ApiError as error:
            if error.status_code in NOT_NOW:
                asked.tries -= 1
                wait = (error.headers or {}).get("Retry-After", "1")
                self._not_before = time.monotonic() + min(float(wait), LONGEST_WAIT_S)
                return None
            if error.status_code >= 500 and asked.tries < self._gateway.config.batches.attempts:
                return None
            return Outcome(asked.line.custom_id, error.status_code, error.body, name)
        except OSError:
            raise
        except Exception as error:
            log(f"batch {self._row.id}, request {name} failed: " + "".join(traceback.format_exception(error)))
            failed = ApiError(500, "an internal error; the log has it under this request id", code="server_error")
            return Outcome(asked.line.custom_id, 500, failed.body, name)
        return Outcome(asked.line.custom_id, 200, body, name)
