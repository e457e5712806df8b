"""Requests and tokens per minute, held exactly over every window of a minute."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MINUTE_S = 60.0


@dataclass(slots=True)
class Ticket:
    """A request that was let through, and the tokens it is thought to take."""

    at: float
    tokens: int


class Pace:
    """Lets requests through as fast as the limits of an endpoint allow, whatever the number of threads.

    Args:
        requests_per_minute, tokens_per_minute: None: no limit.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests, self._tokens, self._clock = requests_per_minute, tokens_per_minute, clock
        self._recent: deque[Ticket] = deque()
        self._lock = threading.Lock()

    def enter(self, tokens: int) -> Ticket | float:
        """Go now, or the seconds to wait before asking again.

        Args:
            tokens: An estimate of prompt and answer; ``settle`` corrects it. A request larger than the limit of a whole
                minute goes alone.
        """
        with self._lock:
            now = self._clock()
            while self._recent and self._recent[0].at <= now - MINUTE_S:
                self._recent.popleft()
            if self._recent and not self._fits(tokens):
                return self._recent[0].at + MINUTE_S - now
            ticket = Ticket(now, tokens)
            self._recent.append(ticket)
            return ticket

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """The request took so many tokens."""
        with self._lock:
            ticket.tokens = tokens

    def _fits(self, tokens: int) -> bool:
        if self._requests is not None and len(self._recent) >= self._requests:
            return False
        return self._tokens is None or sum(t.tokens for t in self._recent) + tokens <= self._tokens
