"""Where the accounts of keys are kept: the arithmetic of limits, and the book of one process.

A minute's limit is a leaky bucket: it holds a minute's amount and empties evenly, so that after a pause a whole minute's
amount may come at once. A day's quota is a plain count from midnight to midnight, UTC. Tokens are reserved when a call
is accepted (prompt + longest answer) and, when it ends, exchanged for those that were really used; what is reserved does
not leak, so a refund can never give more than was taken. ``redis_book`` does the same for several replicas.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

MINUTE_S = 60.0
DAY_S = 86400.0

Amount = Literal["requests", "tokens", "tokens of the day"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits that hold for one key; 0 is no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0

    def __bool__(self) -> bool:
        return bool(self.requests_per_minute or self.tokens_per_minute or self.tokens_per_day)


@dataclass(frozen=True, slots=True)
class Standing:
    """A key's accounts after a request: what is used (reservations included), and what refused it, if anything."""

    requests: float
    tokens: float
    day_tokens: float
    now_s: float
    refused: Amount | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens set aside for one call."""

    key_id: str
    allowance: Allowance
    id: str
    tokens: int
    book: Book
    """Where they are set aside; only there they are given back."""


class Book(Protocol):
    """Where accounts are kept. Every method may raise ResourceError: the book cannot be reached."""

    async def take(self, key_id: str, allowance: Allowance, requests: int, tokens: int, reservation: str) -> Standing:
        """Charge requests and set tokens aside: all of it, or (``Standing.refused``) nothing."""

    async def settle(self, held: Reservation, used: int) -> None:
        """Exchange what was set aside for what was used."""

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Account:
    requests: float = 0.0
    tokens: float = 0.0
    at_s: float = 0.0
    day: int = -1
    day_tokens: float = 0.0
    held: int = 0


class MemoryBook:
    """The accounts of one process.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    async def take(self, key_id: str, allowance: Allowance, requests: int, tokens: int, reservation: str) -> Standing:
        now = self._clock()
        account = self._leak(key_id, allowance, now)
        held = account.held
        refused: Amount | None = None
        for name, limit, used, wanted in (
            ("requests", allowance.requests_per_minute, account.requests, requests),
            ("tokens", allowance.tokens_per_minute, account.tokens + held, tokens),
            ("tokens of the day", allowance.tokens_per_day, account.day_tokens + held, tokens),
        ):
            if refused is None and limit and wanted and used + wanted > limit:
                refused = name  # type: ignore[assignment]
        if refused is None:
            account.requests += requests
            account.held = held = held + tokens
        return Standing(account.requests, account.tokens + held, account.day_tokens + held, now, refused)

    async def settle(self, held: Reservation, used: int) -> None:
        account = self._leak(held.key_id, held.allowance, self._clock())
        account.held -= held.tokens
        account.tokens += used
        account.day_tokens += used

    async def close(self) -> None:
        self._accounts.clear()

    def _leak(self, key_id: str, allowance: Allowance, now: float) -> _Account:
        """The account as it stands now. There are as many as keys that have asked."""
        account = self._accounts.setdefault(key_id, _Account(at_s=now))
        passed = max(now - account.at_s, 0.0) / MINUTE_S
        rpm, tpm = allowance.requests_per_minute, allowance.tokens_per_minute
        account.requests = max(account.requests - passed * rpm, 0.0) if rpm else 0.0
        account.tokens = max(account.tokens - passed * tpm, 0.0) if tpm else 0.0
        account.at_s = max(now, account.at_s)
        if account.day != (day := int(now // DAY_S)):
            account.day, account.day_tokens = day, 0.0
        return account
