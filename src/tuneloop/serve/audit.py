"""The audit log: one JSON line for each request, appended and never changed.

Each line holds ``prev``, the SHA-256 of the line before it (of its bytes, without the newline), so that a line that is
changed, moved or taken out shows in the next one. That the end was cut off shows only against a hash kept elsewhere:
the gateway says the last one in its log whenever it opens or closes the file. Rotate by renaming and SIGHUP; the first
line of the new file continues the chain.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from tuneloop.config import Config, ConfigPath
from tuneloop.progress import log
from tuneloop.serve.audit_chain import GENESIS, TORN, digest, last_line, unwritable

FSYNC_S = 1.0
"""How often ``fsync: second`` writes to the disk."""
MAX_PENDING = 10_000
"""Lines that wait in memory while the disk is full. With ``on_failure: refuse`` only running requests add to them."""


class AuditConfig(Config):
    """A log of who asked what when; never the words, unless asked for."""

    path: ConfigPath | None = None
    """The file; None for no audit log."""
    fsync: Literal["always", "second", "never"] = "second"
    """When lines are forced to the disk: each one before its request is over, once a second, or when the system likes."""
    on_failure: Literal["refuse", "continue"] = "refuse"
    """When the log cannot be written (a full disk): answer 503 until it can, or go on and count the lines that are lost."""
    bodies: bool = False
    """Also write what was asked and answered. That is personal data: say who may read the file, and for how long."""


@dataclass(slots=True)
class Entry:
    """What becomes a line. Filled on the way of a request."""

    request_id: str
    key_id: str = ""
    route: str = ""
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: list[str] = field(default_factory=list)
    filter_hits: list[str] = field(default_factory=list)
    bodies: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    """For the answer: how the key stands. Not written."""
    begun_s: float = field(default_factory=time.monotonic)

    def line(self) -> dict[str, Any]:
        return {
            "time": round(time.time(), 3),
            "request_id": self.request_id,
            "key_id": self.key_id,
            "route": self.route,
            "status": self.status,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "finish": self.finish,
            "filter_hits": self.filter_hits,
            "duration_s": round(time.monotonic() - self.begun_s, 6),
        } | self.bodies


current: ContextVar[Entry | None] = ContextVar("audit_entry", default=None)
"""The entry of the request that is being answered."""


def filter_hit(name: str) -> None:
    """Note for the audit log that a filter has found something; ``name`` says which, never what."""
    if (entry := current.get()) is not None:
        entry.filter_hits.append(name)


class AuditLog:
    """An open audit log. Every method is safe from any thread.

    Args:
        config: ``path`` must be set.
        count: Called with the number of lines that were lost.

    Raises:
        ResourceError: It cannot be opened or written.
    """

    def __init__(self, config: AuditConfig, count: Callable[[int], None] = lambda _: None) -> None:
        assert config.path is not None
        self._config, self._path, self._count = config, config.path, count
        self._closed = False
        self._lock = threading.Lock()
        self._pending: list[dict[str, Any]] = []
        self._dirty = False
        self._half: bytes | None = None
        self._torn = False
        self.lost = 0
        """Lines that could not be written (``on_failure: continue``), or did not fit into memory meanwhile."""
        self.failing = False
        self._prev = GENESIS
        try:
            self._fd, self._prev = self._open()
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._say("opened")
        if config.bodies:
            log(
                f"audit: BODIES ARE WRITTEN to {self._path}: everything that is asked and answered. audit.bodies=false stops it"
            )

    def write(self, line: dict[str, Any]) -> None:
        """Append a line. What cannot be written now waits, or is counted, as the configuration says; never an error."""
        with self._lock:
            if self._closed or len(self._pending) >= MAX_PENDING:
                self._lose(1)
                return
            self._pending.append(line)
            self._flush()
            if self.failing and self._config.on_failure == "continue":
                self._lose(len(self._pending))
                self._pending.clear()

    def accepts(self) -> bool:
        """Whether a request may be accepted: not while the log cannot be written and must be."""
        if not self.failing or self._config.on_failure == "continue":
            return True
        with self._lock:
            self._flush(probe=True)
            return not self.failing

    def reopen(self) -> None:
        """Go on in a new file, after the old one was renamed; the chain goes on."""
        with self._lock:
            old = self._fd
            try:
                self._fd, _ = self._open()
            except OSError as error:
                log(f"audit: {unwritable(self._path, error).what}; going on in the old file")
                return
            os.close(old)
        self._say("reopened")

    def sync(self) -> None:
        """Force to the disk what is not there yet; a slow disk does not hold up those who write meanwhile."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            fd = os.dup(self._fd)
        try:
            os.fsync(fd)
        except OSError as error:
            self._fail(error)
        finally:
            os.close(fd)

    def close(self) -> None:
        self._say("closed")
        with self._lock:
            self._closed = True
            with suppress(OSError):  # a device that cannot, or a disk that is gone: said when it began
                os.fsync(self._fd)
            os.close(self._fd)
            if self._pending:
                log(f"audit: {len(self._pending)} lines could not be written")

    def _lose(self, lines: int) -> None:
        self.lost += lines
        self._count(lines)

    def _say(self, event: str) -> None:
        self.write({"time": round(time.time(), 3), "event": event, "bodies": self._config.bodies})
        log(f"audit: {self._path} {event}, last hash {self._prev}")

    def _open(self) -> tuple[int, str]:
        """The file and the hash of its last line; half a line that a crash has left is closed and marked."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        last = last_line(fd)
        if last is None:
            return fd, self._prev
        if not last.endswith(b"\n"):
            self._half = last
        return fd, digest(last.removesuffix(b"\n"))

    def _flush(self, *, probe: bool = False) -> None:
        """Write what waits, in order. The lock is held."""
        try:
            if probe and not self._pending:
                self._pending.append({"time": round(time.time(), 3), "event": "probe"})
            while self._pending:
                self._append(self._pending[0])
                del self._pending[0]
            if self._config.fsync == "always":
                self._dirty = False
                os.fsync(self._fd)
        except OSError as error:
            self._fail(error)
        else:
            if self.failing:
                log("audit: the log can be written again")
            self.failing = False

    def _fail(self, error: OSError) -> None:
        if not self.failing:
            log(f"audit: {unwritable(self._path, error).what}; {self._config.on_failure} until it works again")
        self.failing = True

    def _append(self, line: dict[str, Any]) -> None:
        """One line in one write. Half a line, left by a crash or a full disk, is closed and owned up to."""
        if self._half is not None:
            os.write(self._fd, b"\n")
            self._prev, self._half, self._torn = digest(self._half), None, True
        if self._torn and line.get("event") != TORN:
            self._append({"time": round(time.time(), 3), "event": TORN})
            self._torn = False
        said = json.dumps(line | {"prev": self._prev}, ensure_ascii=False, separators=(",", ":"))
        data = said.encode("utf-8", "replace")
        written = os.write(self._fd, data + b"\n")
        if written < len(data) + 1:
            self._half = data[:written]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._prev, self._dirty = digest(data), True
