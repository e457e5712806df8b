"""Something that is worth doing only now and then."""

from __future__ import annotations

import time


class Every:
    """Says yes at most once in so many seconds.

    Args:
        seconds: 0 always says yes.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, 0.0

    def due(self) -> bool:
        """Whether it is time again, as it is at first; then the time begins anew."""
        if (now := time.monotonic()) < self._next:
            return False
        self._next = now + self._seconds
        return True
