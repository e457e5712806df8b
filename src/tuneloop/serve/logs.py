"""Structured logs: one line of JSON for whatever happens, or readable text on a terminal.

Lines are written by a thread of their own, so that a slow reader of standard error never holds up a token. When it is
so slow that the queue fills, or the disk is full, lines are dropped and counted (``tuneloop_log_lines_dropped_total``).
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from typing import Any, TextIO

from tuneloop import progress
from tuneloop.serve.observe import ObserveConfig

QUEUE_LINES = 10_000
REST_S = 0.05
"""The writer waits for nothing this long after it has written: under load it wakes for many lines, not for each."""
STOP_S = 5.0
"""How long the end waits for a reader that does not read."""
HEAD, LABELS = ("method", "route", "status"), ("model", "version", "arm", "precision")
LIBRARIES = ("uvicorn",)
"""Loggers whose warnings go the same way."""

_record: ContextVar[dict[str, Any] | None] = ContextVar("request_log_record", default=None)


def begin_record() -> dict[str, Any]:
    """A new record for the request of this task; whatever works on it adds to it by ``note``."""
    record: dict[str, Any] = {}
    _record.set(record)
    return record


def note(**fields: Any) -> None:
    """Add fields to the record of the request that this task works on, if there is one."""
    if (record := _record.get()) is not None:
        record.update(fields)


class Logs:
    """Where log lines go. Nothing is written before ``start``.

    Args:
        config: Which form.
        dropped: Called for every line that could not be written in time.
        sink: Default: standard error.
        queue_lines: How many lines may wait.
    """

    def __init__(
        self,
        config: ObserveConfig,
        dropped: Callable[[], None],
        sink: TextIO | None = None,
        queue_lines: int = QUEUE_LINES,
    ) -> None:
        self._sink = sink or sys.stderr
        self.form = config.logs if config.logs != "auto" else ("text" if self._sink.isatty() else "json")
        self._writer: threading.Thread | None = None
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(queue_lines)
        self._dropped, self._handler = dropped, _Dropping(self._queue, dropped)

    @property
    def active(self) -> bool:
        return self._writer is not None

    def start(self) -> None:
        """Write from now on; in JSON, what the rest of the program says becomes lines of JSON, too."""
        if self.form == "off" or self.active:
            return
        writer = _Writing(self._sink, self._dropped)
        writer.setFormatter(JsonFormatter() if self.form == "json" else TextFormatter())
        self._writer = threading.Thread(target=_write_all, args=(self._queue, writer), name="logs", daemon=True)
        self._writer.start()
        if self.form == "json":
            progress.set_sink(lambda line: self.write("message", message=line))
        for name in LIBRARIES:
            logging.getLogger(name).addHandler(self._handler)

    def stop(self) -> None:
        """Write what waits, and end; a reader that hangs is not waited for longer than ``STOP_S``."""
        if self._writer is None:
            return
        progress.set_sink(None)
        for name in LIBRARIES:
            logging.getLogger(name).removeHandler(self._handler)
        with suppress(queue.Full):
            self._queue.put(None, timeout=STOP_S)
        self._writer.join(STOP_S)
        self._writer = None

    def write(self, event: str, **fields: Any) -> None:
        """A line. Does nothing before ``start``."""
        if self.active:
            record = logging.LogRecord("tuneloop.serve", logging.INFO, "", 0, event, None, None)
            record.fields = fields
            self._handler.enqueue(record)


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "event": …, …}`` on one line; times in UTC (RFC 3339)."""

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        fields = getattr(record, "fields", None)
        if fields is None:  # a library's line
            row |= {"event": "message", "logger": record.name, "message": record.getMessage()}
        else:
            row |= {"event": record.msg, **fields}
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)


class TextFormatter(logging.Formatter):
    """A request as a person reads it; which model answers was said at the start."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is None:  # a library's line
            return f"{at} {record.getMessage()}"
        head = [str(fields[name]) for name in HEAD if name in fields]
        rest = [f"{name}={value}" for name, value in fields.items() if name not in HEAD and name not in LABELS]
        return " ".join([at, *head, *rest])


def _write_all(waiting: queue.Queue[logging.LogRecord | None], writer: logging.Handler) -> None:
    while (record := waiting.get()) is not None:
        writer.handle(record)
        if waiting.empty():
            time.sleep(REST_S)


class _Writing(logging.StreamHandler[TextIO]):
    """Counts what cannot be written (a full disk), and goes on with the next line."""

    def __init__(self, sink: TextIO, dropped: Callable[[], None]) -> None:
        super().__init__(sink)
        self._dropped = dropped

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            self._dropped()
        else:
            super().handleError(record)


class _Dropping(QueueHandler):
    """Never waits for the writer."""

    def __init__(self, waiting: queue.Queue[Any], dropped: Callable[[], None]) -> None:
        super().__init__(waiting)
        self._dropped = dropped

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # formatted by the writer's thread

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._dropped()
