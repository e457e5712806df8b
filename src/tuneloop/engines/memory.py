"""How much memory a process holds, with everything that it has started."""

from __future__ import annotations

from tuneloop.errors import need
from tuneloop.every import Every

CHECK_S = 1.0


class MemoryLimit:
    """Watches one process and its descendants.

    Args:
        limit_bytes: The most resident memory they may hold together; None: no limit.
        pid: The process.

    Raises:
        MissingExtraError: There is a limit, and ``psutil`` is not installed.
    """

    def __init__(self, limit_bytes: int | None, pid: int) -> None:
        self._limit, self._pid = limit_bytes, pid
        self._psutil = need("psutil", "serve") if limit_bytes is not None else None
        self._every = Every(CHECK_S)

    def problem(self, *, now: bool = False) -> str | None:
        """What is wrong; looks at most once in ``CHECK_S``, or ``now``."""
        if self._psutil is None or self._limit is None or not (self._every.due() or now):
            return None
        if (held := self._held()) <= self._limit:
            return None
        return (
            f"it holds {held / 2**20:.0f} MiB of memory, and engine.max_memory_bytes allows {self._limit / 2**20:.0f}"
        )

    def _held(self) -> int:
        """Sum of the resident sets in bytes; a page that two of them share is counted twice."""
        psutil = self._psutil
        assert psutil is not None
        total = 0
        try:
            root = psutil.Process(self._pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in tree:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # it has just ended
                continue
        return total
