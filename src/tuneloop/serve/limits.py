"""Rate limits and quotas by key, in requests and tokens: what ``book`` counts, in the words of OpenAI's API."""

from __future__ import annotations

import asyncio
import math
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field

from tuneloop.config import Config
from tuneloop.errors import ResourceError
from tuneloop.progress import log
from tuneloop.serve.book import DAY_S, MINUTE_S, Allowance, Book, MemoryBook, Reservation, Standing

if TYPE_CHECKING:
    from tuneloop.serve.api_error import ApiError
    from tuneloop.serve.keys import Key

RETRY_REDIS_S = 1.0
"""After a failure of Redis nobody waits for it again before this time is over."""
DAY = "tokens-day"
"""OpenAI has no header for a day's quota."""
HEADERS = tuple(
    f"x-ratelimit-{part}-{name}" for part in ("limit", "remaining", "reset") for name in ("requests", "tokens", DAY)
)

T = TypeVar("T")


class LimitsConfig(Config):
    """How much each key may ask for. A key's own limits (``tuneloop keys create --tokens-per-day``) come first."""

    requests_per_minute: int = Field(0, ge=0)
    """Requests that a key may send in a minute; 0 is no limit."""
    tokens_per_minute: int = Field(0, ge=0)
    """Tokens of prompts and answers that a key may use in a minute; 0 is no limit."""
    tokens_per_day: int = Field(0, ge=0)
    """Tokens that a key may use from midnight to midnight, UTC; 0 is no limit."""
    redis_url: str | None = None
    """Where several replicas keep one account, e.g. redis://host:6379/0; default: ``TUNELOOP_REDIS_URL`` (a URL with a
    password belongs there, configurations are printed and kept); without either this process counts alone."""
    redis_timeout_s: float = Field(0.5, gt=0)
    """Longer than this Redis may not take."""
    when_redis_fails: Literal["refuse", "memory"] = "refuse"
    """refuse answers 503 until it is back; memory lets every replica count for itself meanwhile. Never unlimited."""


class Limits:
    """Charges calls to keys.

    Args:
        config: Limits of keys that have none of their own, and where the books are kept.
        hold_s: How long a reservation may live when the replica that made it has died.
        book: Where accounts are kept; default: as the configuration says.
        count: Called with the reason of every refusal.
    """

    def __init__(
        self,
        config: LimitsConfig,
        hold_s: float,
        book: Book | None = None,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config, self._count = config, count
        self._memory = MemoryBook()
        self._book: Book = book or self._memory
        url = config.redis_url or os.environ.get("TUNELOOP_REDIS_URL")
        if book is None and url:
            from tuneloop.serve.redis_book import RedisBook

            self._book = RedisBook(url, config.redis_timeout_s, hold_s)
        self._failed_s: float | None = None
        self._settling: set[asyncio.Task[None]] = set()

    def allowance(self, key: Key) -> Allowance:
        """A key's own limits, and the configured ones where it has none."""
        own, default = key.limits, self._config
        return Allowance(
            default.requests_per_minute if own.requests_per_minute is None else own.requests_per_minute,
            default.tokens_per_minute if own.tokens_per_minute is None else own.tokens_per_minute,
            default.tokens_per_day if own.tokens_per_day is None else own.tokens_per_day,
        )

    async def count(self, key: Key, headers: dict[str, str]) -> None:
        """Charge one request and write ``HEADERS``, which are OpenAI's and those of the day.

        Raises:
            ApiError: 429, the key has used its limit; 503, the books cannot be reached.
        """
        if allowance := self.allowance(key):
            await self._take(key, allowance, 1, 0, "", headers)

    async def reserve(self, key: Key, tokens: int, headers: dict[str, str]) -> Reservation | None:
        """Set tokens aside; None where the key has no limit in tokens. Every reservation must be settled.

        Raises:
            ApiError: 429, the key has used its limit; 503, the books cannot be reached.
        """
        allowance = self.allowance(key)
        if not (allowance.tokens_per_minute or allowance.tokens_per_day):
            return None
        name = uuid.uuid4().hex
        book = await self._take(key, allowance, 0, tokens, name, headers)
        return Reservation(key.id, allowance, name, tokens, book)

    def settle(self, held: Reservation | None, used: int) -> None:
        """Exchange a reservation for what was used; it goes on beside the requests."""
        if held is None:
            return

        async def settle() -> None:
            try:
                await held.book.settle(held, used)
            except ResourceError as error:  # the reservation expires by itself; what was used is at least known here
                log(f"limits: {error.what}; {used} tokens of key {held.key_id} are counted in this process only")
                await self._memory.settle(replace(held, tokens=0), used)

        task = asyncio.ensure_future(settle())
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Finish what is being settled."""
        await asyncio.gather(*self._settling)
        await self._book.close()

    async def _take(
        self, key: Key, allowance: Allowance, requests: int, tokens: int, reservation: str, headers: dict[str, str]
    ) -> Book:
        from tuneloop.serve.api_error import ApiError

        try:
            book, stands = await self._reach(lambda book: book.take(key.id, allowance, requests, tokens, reservation))
        except ResourceError:
            self._count("limits_unavailable")
            raise ApiError(
                503, "limits cannot be checked now; try again soon", code="limits_unavailable", headers=_wait(1)
            ) from None
        headers |= _headers(allowance, stands)
        if stands.refused:
            self._count("rate_limited")
            raise _refusal(allowance, stands, requests or tokens, headers)
        return book

    async def _reach(self, ask: Callable[[Book], Awaitable[T]]) -> tuple[Book, T]:
        """Ask the book; where it cannot be reached, the configuration says what then. Also says which has answered."""
        now = time.monotonic()
        if self._failed_s is None or now - self._failed_s >= RETRY_REDIS_S:
            try:
                found = await ask(self._book)
            except ResourceError as error:
                if self._failed_s is None:
                    log(f"limits: {error.what}; until it is back: {self._config.when_redis_fails}")
                self._failed_s = time.monotonic()
            else:
                if self._failed_s is not None:
                    log("limits: the books can be reached again")
                self._failed_s = None
                return self._book, found
        if self._config.when_redis_fails == "refuse":
            raise ResourceError("the books of the limits cannot be reached", hint="look after Redis")
        return self._memory, await ask(self._memory)


def duration(seconds: float) -> str:
    """A time as OpenAI's ``x-ratelimit-reset-*`` headers write it: ``120ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(max(seconds, 0) * 1000)}ms"
    if seconds < MINUTE_S:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s"


def _headers(allowance: Allowance, stands: Standing) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, limit, used in (
        ("requests", allowance.requests_per_minute, stands.requests),
        ("tokens", allowance.tokens_per_minute, stands.tokens),
        (DAY, allowance.tokens_per_day, stands.day_tokens),
    ):
        if limit:
            reset_s = _to_midnight_s(stands) if name == DAY else used * MINUTE_S / limit
            out[f"x-ratelimit-limit-{name}"] = str(limit)
            out[f"x-ratelimit-remaining-{name}"] = str(max(math.floor(limit - used), 0))
            out[f"x-ratelimit-reset-{name}"] = duration(reset_s)
    return out


def _to_midnight_s(stands: Standing) -> float:
    return DAY_S - stands.now_s % DAY_S


def _refusal(allowance: Allowance, stands: Standing, wanted: int, headers: dict[str, str]) -> ApiError:
    from tuneloop.serve.api_error import QUOTA, ApiError

    limit, used, every = {
        "requests": (allowance.requests_per_minute, stands.requests, "minute"),
        "tokens": (allowance.tokens_per_minute, stands.tokens, "minute"),
        "tokens of the day": (allowance.tokens_per_day, stands.day_tokens, "day"),
    }[stands.refused or "requests"]
    what = "requests" if stands.refused == "requests" else "tokens"
    if wanted > limit:
        said = f"this request may use {wanted} {what}, more than the limit of {limit} a {every}; ask for fewer"
        return ApiError(429, said, code="request_exceeds_limit", headers=headers)
    wait = _to_midnight_s(stands) if every == "day" else (used + wanted - limit) * MINUTE_S / limit
    said = f"this key may use {limit} {what} a {every} and has used or reserved {math.ceil(used)}; {wanted} more do not fit"
    code = QUOTA if every == "day" else "rate_limit_exceeded"
    return ApiError(429, said, code=code, headers=headers | _wait(wait))


def _wait(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(math.ceil(seconds), 1))}
