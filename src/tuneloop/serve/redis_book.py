"""The limits' accounts in Redis, for several replicas: the same arithmetic as ``book.MemoryBook``, as a script.

Redis runs a script as one step and by its own clock, so that replicas neither race nor disagree about the time.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from tuneloop.errors import ConfigError, ResourceError, need
from tuneloop.serve.book import Allowance, Reservation, Standing

PREFIX = "tuneloop:limits"
REFUSED = (None, "requests", "tokens", "tokens of the day")

STATE = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local rpm, tpm, tpd = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at', 'day', 'day_tokens')
local requests, tokens = tonumber(kept[1] or 0), tonumber(kept[2] or 0)
local at, day, day_tokens = tonumber(kept[3] or now), tonumber(kept[4] or -1), tonumber(kept[5] or 0)
local passed = math.max(now - at, 0) / 60
requests = rpm > 0 and math.max(requests - passed * rpm, 0) or 0
tokens = tpm > 0 and math.max(tokens - passed * tpm, 0) or 0
at = math.max(now, at)
local today = math.floor(now / 86400)
if day ~= today then day, day_tokens = today, 0 end
local function text(number) return string.format('%.17g', number) end
local function keep()
  redis.call('HSET', KEYS[1], 'requests', text(requests), 'tokens', text(tokens), 'at', text(at),
             'day', text(day), 'day_tokens', text(day_tokens))
  redis.call('EXPIRE', KEYS[1], 172800)
end
"""
"""The account as it stands now. Values are kept as text with 17 digits: a double survives that."""

TAKE = (
    STATE
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local held = 0
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  held = held + tonumber(string.match(member, ':(%d+)$'))
end
local more_requests, more_tokens, refused = tonumber(ARGV[4]), tonumber(ARGV[5]), 0
if rpm > 0 and more_requests > 0 and requests + more_requests > rpm then refused = 1
elseif tpm > 0 and more_tokens > 0 and tokens + held + more_tokens > tpm then refused = 2
elseif tpd > 0 and more_tokens > 0 and day_tokens + held + more_tokens > tpd then refused = 3
else
  requests = requests + more_requests
  if more_tokens > 0 then
    held = held + more_tokens
    redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[7])), ARGV[6] .. ':' .. ARGV[5])
    redis.call('EXPIRE', KEYS[2], math.ceil(tonumber(ARGV[7])) + 60)
  end
end
keep()
return {refused, text(requests), text(tokens + held), text(day_tokens + held), text(now)}
"""
)

SETTLE = (
    STATE
    + """
redis.call('ZREM', KEYS[2], ARGV[4])
tokens = tokens + tonumber(ARGV[5])
day_tokens = day_tokens + tonumber(ARGV[5])
keep()
return 1
"""
)


class RedisBook:
    """Accounts that several replicas share.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``.
        timeout_s: For connecting and for every answer.
        hold_s: When the reservation of a replica that died ends by itself.

    Raises:
        ConfigError: The URL is none of a Redis.
        MissingExtraError: The extra ``redis`` is not installed.
    """

    def __init__(self, url: str, timeout_s: float, hold_s: float) -> None:
        redis = need("redis.asyncio", "redis")
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._error: type[Exception] = redis.RedisError
        self._hold_s = hold_s
        # One retry: a connection that was idle while Redis was started again is broken, the next one is not.
        try:
            self._client: Any = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 1)
            )
        except ValueError as error:  # the URL itself may hold a password
            raise ConfigError(
                f"this is no URL of a Redis: {error}", where="serve.limits.redis_url", hint="redis://host:6379/0"
            ) from None
        self._take, self._settle = self._client.register_script(TAKE), self._client.register_script(SETTLE)

    async def take(self, key_id: str, allowance: Allowance, requests: int, tokens: int, reservation: str) -> Standing:
        arguments = [*_limits(allowance), requests, tokens, reservation, self._hold_s]
        refused, *numbers = await self._reach(self._take(keys=_keys(key_id), args=arguments))
        used_requests, used_tokens, day_tokens, now = map(float, numbers)
        return Standing(used_requests, used_tokens, day_tokens, now, REFUSED[int(refused)])  # type: ignore[arg-type]

    async def settle(self, held: Reservation, used: int) -> None:
        arguments = [*_limits(held.allowance), f"{held.id}:{held.tokens}", used]
        await self._reach(self._settle(keys=_keys(held.key_id), args=arguments))

    async def close(self) -> None:
        await self._client.aclose()

    async def _reach(self, asked: Awaitable[Any]) -> Any:
        try:
            return await asked
        except (self._error, OSError, TimeoutError) as error:
            raise ResourceError(
                f"Redis does not answer: {error}".splitlines()[0], hint="check serve.limits.redis_url and the server"
            ) from error


def _keys(key_id: str) -> list[str]:
    """The braces keep a key's entries on one node of a cluster."""
    return [f"{PREFIX}:{{{key_id}}}:used", f"{PREFIX}:{{{key_id}}}:held"]


def _limits(allowance: Allowance) -> tuple[int, int, int]:
    return allowance.requests_per_minute, allowance.tokens_per_minute, allowance.tokens_per_day
