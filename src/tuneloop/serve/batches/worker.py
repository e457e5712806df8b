"""Runs the batches of one gateway: checks new ones, runs them in order, ends them, and goes on after any interruption.

The files are the truth: a line whose outcome is in them is done, whatever happened to the process. Several gateways that
serve the same model may share a folder; a lock on a file, which a dead process cannot hold, lets one of them work.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from tuneloop.errors import ResourceError
from tuneloop.progress import log
from tuneloop.rundir import disk_error
from tuneloop.serve import keys
from tuneloop.serve.batches.files import Folder
from tuneloop.serve.batches.ledger import BatchRow, FileRow, Ledger, Problem, as_json
from tuneloop.serve.batches.lines import Line, check
from tuneloop.serve.batches.results import Outcome, Results
from tuneloop.serve.batches.run import Run
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.keys import Key

T = TypeVar("T")
POLL_S = 2.0
"""How soon a batch is noticed that another process wrote."""
RETRY_S = 5.0
"""How long to wait for a full disk or a locked database."""
ABANDONED_S = 3600.0
"""A batch whose time was over so long ago is ended by any gateway, also without its files."""
STOP_S = 10.0
WRITE_LINES = 1000
WHY = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request ran."),
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
}

GONE = Problem("missing_file", "the input file is gone", "input_file_id")
REVOKED = Problem("key_revoked", "the key that made the batch is not valid any more")


class Worker:
    """See the module.

    Args:
        gateway: Answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.ledger, self.folder = Ledger(), Folder(gateway.config.batches)
        self.notes: dict[str, Problem] = {}
        """Why a batch that has not ended does not get on."""
        self.wake = asyncio.Event()
        self._run: Run | None = None
        self._current = ""
        self._left: set[str] = set()
        """Folders of other gateways whose batches are left to them."""
        self._stopping = False

    async def run(self) -> None:
        """Work until ``stop``."""
        if not self._gateway.config.batches.enabled:
            return
        handle = await self._lock()
        if handle is None:
            return
        try:
            await self._patiently("", self._sweep)
            await asyncio.gather(self._clerk(), self._runner())
        finally:
            os.close(handle)

    async def stop(self, task: asyncio.Task[None]) -> None:
        """End ``run``; requests that run are given up and asked again after the next start."""
        self._stopping = True
        if self._run is not None:
            self._run.stopping = True
        self.wake.set()
        await asyncio.wait({task}, timeout=STOP_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _lock(self) -> int | None:
        """The handle that says that this process does the work; None when the gateway ends first."""
        name = hashlib.sha256(self._gateway.model.encode()).hexdigest()[:16]
        handle: int | None = None
        while not self._stopping:
            try:
                self.folder.make()
                if handle is None:
                    handle = os.open(self.folder.path / f"worker-{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                pass
            except OSError as error:
                log(f"batches: {disk_error(error, self.folder.path)}")
            await self._pause(RETRY_S)
        return None

    async def _pause(self, seconds: float) -> None:
        """Wait, unless something new is there or the end."""
        if self._stopping:
            return
        try:
            await asyncio.wait_for(self.wake.wait(), seconds)
        except TimeoutError:
            return
        await asyncio.sleep(0)  # both loops wake
        self.wake.clear()

    async def _sweep(self) -> None:
        known = await asyncio.to_thread(self.ledger.known_files)
        await asyncio.to_thread(self.folder.sweep, known)

    async def _patiently(self, batch_id: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """Do the work; while the disk is full or the database locked, say so on the batch and try again."""
        while not self._stopping:
            try:
                done = await work()
                self.notes.pop(batch_id, None)
                return done
            except OSError as error:
                known, code = disk_error(error, self.folder.path), "disk"
            except ResourceError as error:
                known, code = error, "storage_unavailable"
            except Exception as error:  # the worker outlives its own faults, and tells
                log("batches: " + "".join(traceback.format_exception(error)))
                known, code = ResourceError("an internal error; the log has it"), "server_error"
            self.notes[batch_id] = Problem(code, f"waiting: {known.what}; trying again every {RETRY_S:g} s")
            log(f"batches: {known}")
            await self._pause(RETRY_S)
        return None

    def _open(self) -> list[BatchRow]:
        return [row for row in self.ledger.open_batches(self._gateway.model) if self._is_here(row)]

    def _is_here(self, row: BatchRow) -> bool:
        """Whether the input lies in this folder, or did: what was never here is for the gateway that has it, until its time
        has been over for so long that there is no such gateway."""
        if self.folder.file(row.input_file).exists() or time.time() >= row.expires_s + ABANDONED_S:
            return True
        folder = self.ledger.folder(row.input_file)
        if folder in (None, self.folder.name()):
            return True
        if folder not in self._left:
            self._left.add(folder)
            log(
                f"batches: {row.id} and others have their files in another folder: they are left to the gateway that has it"
            )
        return False

    # ---- the clerk: everything but the batch that runs ----

    async def _clerk(self) -> None:
        while not self._stopping:
            await self._patiently("", self._look_through)
            await self._pause(POLL_S)

    async def _look_through(self) -> None:
        for row in await asyncio.to_thread(self._open):
            if row.id == self._current or self._stopping:
                continue
            if row.status == "validating":
                await self._guarded(row, lambda row=row: self._validate(row))  # type: ignore[misc]
            elif row.status == "cancelling":
                await self._guarded(row, lambda row=row: self._end(row, "cancelled"))  # type: ignore[misc]
            elif row.status == "in_progress" and time.time() >= row.expires_s:
                await self._guarded(row, lambda row=row: self._end(row, "expired"))  # type: ignore[misc]

    async def _validate(self, row: BatchRow) -> None:
        path = self.folder.file(row.input_file)
        try:
            found, problems = await asyncio.to_thread(check, self._gateway, row.endpoint, path)
        except FileNotFoundError:
            found, problems = [], [GONE]
        if problems:
            values = {"total": len(found), "errors": as_json(problems)}
            await asyncio.to_thread(self.ledger.move, row.id, ["validating"], "failed", **values)
        else:
            await asyncio.to_thread(self.ledger.move, row.id, ["validating"], "in_progress", total=len(found))
            self.wake.set()

    async def _guarded(self, row: BatchRow, work: Callable[[], Awaitable[None]]) -> None:
        """A fault of ours ends the batch that met it, not the worker."""
        try:
            await work()
        except (OSError, ResourceError):
            raise
        except Exception as error:
            log(f"batch {row.id} failed: " + "".join(traceback.format_exception(error)))
            problem = Problem("server_error", "an internal error; the log has it under the batch's id")
            await asyncio.to_thread(self.ledger.end, row, "failed", [], errors=as_json([problem]))

    # ---- the runner: one batch after the other ----

    async def _runner(self) -> None:
        while not self._stopping:
            row = None if self._gateway.draining else await self._patiently("", self._next)
            if row is None:
                await self._pause(POLL_S)
                continue
            self._current = row.id
            await self._patiently(row.id, lambda row=row: self._guarded(row, lambda: self._one(row)))  # type: ignore[misc]
            self._current = ""

    async def _next(self) -> BatchRow | None:
        rows = await asyncio.to_thread(self._open)
        return next((row for row in rows if row.status in ("in_progress", "finalizing")), None)

    async def _one(self, row: BatchRow) -> None:
        """Run a batch from where it stands to its end."""
        if not self.folder.file(row.input_file).exists():
            await self._end(row, "failed", errors=as_json([GONE]))
            return
        found, results = await asyncio.to_thread(self._resumed, row)
        pending = [line for line in found if line.custom_id not in results.done]
        self._run = Run(self._gateway, self.ledger, self.folder, row, lambda: self._owner(row), pending, results)
        self._run.stopping = self._stopping
        try:
            ended = await self._run.go()
        finally:
            self._run = None
        if ended == "completed":
            await asyncio.to_thread(self.ledger.move, row.id, ["in_progress"], "finalizing")
        if ended is not None:
            values = {} if self._owner(row) else {"errors": as_json([REVOKED])}
            await self._end(row, ended, **values)

    def _resumed(self, row: BatchRow) -> tuple[list[Line], Results]:
        results = Results(self.folder.file(row.output_file), self.folder.file(row.error_file))
        results.resume()
        path = self.folder.file(row.input_file)
        return check(self._gateway, row.endpoint, path)[0] if path.exists() else [], results

    async def _end(self, row: BatchRow, status: str, **values: str) -> None:
        """Give every line without an outcome one, then make the files known together with the last status."""
        found, results = await asyncio.to_thread(self._resumed, row)
        left = [line for line in found if line.custom_id not in results.done]
        for at in range(0, len(left), WRITE_LINES):
            outcomes = [Outcome(line.custom_id, reason=WHY[status]) for line in left[at : at + WRITE_LINES]]
            await asyncio.to_thread(results.append, outcomes)
        fresh = await asyncio.to_thread(self.ledger.batch, row.id)
        if fresh is None:
            return
        files = [f for f in (self._file(row, row.output_file), self._file(row, row.error_file)) if f is not None]
        counts = {"completed": results.completed, "failed": results.failed}
        await asyncio.to_thread(self.ledger.end, fresh, status, files, **counts, **values)

    def _file(self, row: BatchRow, file_id: str) -> FileRow | None:
        path: Path = self.folder.file(file_id)
        if not path.exists():
            return None
        kind = "output" if file_id == row.output_file else "error"
        name, size = f"{row.id}_{kind}.jsonl", path.stat().st_size
        return FileRow(
            id=file_id, owner=row.owner, filename=name, purpose="batch_output", bytes=size, created_s=int(time.time())
        )

    def _owner(self, row: BatchRow) -> Key | None:
        if not self._gateway.config.auth:
            return keys.ANYBODY
        return next((k for k in self._gateway.ring.keys if k.id == row.owner and k.active), None)
