"""Progress with an ETA for everything longer than two seconds. Data goes to stdout; this goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

QUIET_S = 2.0
"""Nothing is printed for work that ends within this many seconds."""

_quiet = False
_sink: Callable[[str], None] | None = None


def set_quiet(quiet: bool) -> None:
    """Turn all progress off (``--quiet``, ``--json``)."""
    global _quiet
    _quiet = quiet


def set_sink(sink: Callable[[str], None] | None) -> None:
    """Give the lines of ``log`` to somebody else, e.g. a structured log; None is standard error again."""
    global _sink
    _sink = sink


def log(line: str = "") -> None:
    """A line for the person watching."""
    if _sink is not None:
        _sink(line)
    elif not _quiet:
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``75`` → ``1:15``; below a minute ``12s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Progress:
    """A line on stderr: rewritten in place on a terminal, one every ten seconds elsewhere.

    Args:
        label: What is being done.
        total: How many units there are (0 when unknown: no ETA then).
        unit: The name of a unit.
    """

    def __init__(self, label: str, total: int = 0, unit: str = "") -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self._start = self._shown = time.monotonic()
        self._first_done = 0
        self._tty = sys.stderr.isatty()
        self._printed = False
        self._note = ""

    def resume_at(self, done: int) -> None:
        """Begin at ``done`` units that an earlier run finished: the ETA does not count them as speed."""
        self.done = self._first_done = done

    def update(self, step: int = 1, note: str = "") -> None:
        self.done += step
        self._note = note or self._note
        now = time.monotonic()
        if now - self._start >= QUIET_S and now - self._shown >= (0.2 if self._tty else 10.0):
            self._shown = now
            self._print()

    def _print(self, end: bool = False) -> None:
        if _quiet:
            return
        elapsed = time.monotonic() - self._start
        parts = [f"  {self.label}"]
        if self.total:
            parts.append(f"{self.done}/{self.total} {self.unit}".rstrip())
            fresh = self.done - self._first_done
            if not end and fresh > 0:
                parts.append(f"ETA {duration(elapsed / fresh * (self.total - self.done))}")
        else:
            parts.append(f"{self.done} {self.unit}".rstrip())
        parts.append(duration(elapsed))
        if self._note:
            parts.append(self._note)
        line = " · ".join(parts)
        if self._tty:
            print(f"\r\x1b[2K{line[:160]}", end="\n" if end else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self._printed = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._printed or time.monotonic() - self._start >= QUIET_S:
            self._print(end=True)


def track(items: Iterable[T], label: str, total: int = 0, unit: str = "") -> Iterator[T]:
    """Iterate with a progress line."""
    known = len(items) if isinstance(items, Sized) else 0
    with Progress(label, total or known, unit) as progress:
        for item in items:
            yield item
            progress.update()
