"""Any OpenAI-compatible endpoint, asked within its limits."""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from tuneloop.config import Config
from tuneloop.data.makers import Around
from tuneloop.data.makers.asking import Answer, Bill, Cache, Query, answered
from tuneloop.data.makers.pace import Pace, Ticket
from tuneloop.errors import ConfigError, ServeError, need
from tuneloop.progress import Progress

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REFUSED = frozenset({400, 413, 422})
"""This request is not answered (its length, its content); others may be."""
_PATH = "/chat/completions"
_TOKENS_OF_AN_ANSWER = 512
"""What an answer is thought to take until the endpoint has counted, where ``max_tokens`` is not set."""


class EndpointConfig(Config):
    """Where to ask, with which key, how fast, and what it costs."""

    url: str
    """Base address, e.g. https://api.deepseek.com/v1 or http://127.0.0.1:8000/v1."""

    model: str
    """Name of the model there."""

    key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is never stored."""

    params: Mapping[str, Any] = {"temperature": 1.0}
    """Sent with each request, e.g. {temperature: 1.0, max_tokens: 1000}."""

    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests under way at the same time."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Limit of the endpoint; empty: none."""

    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Limit of the endpoint, prompt and answer together; empty: none."""

    timeout_s: float = Field(default=120.0, gt=0)
    """How long to wait for one answer."""

    retries: int = Field(default=6, ge=0)
    """How often a request that failed is sent again."""

    backoff_s: float = Field(default=1.0, gt=0)
    """Wait before the first retry; doubled each time, unless the endpoint says how long (Retry-After)."""

    longest_wait_s: float = Field(default=120.0, gt=0)
    """An endpoint that wants a longer wait before the next request ends the run; the same command continues it."""

    price_in: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens, in any currency; empty: no cost is given."""

    price_out: float | None = Field(default=None, ge=0)
    """Price of a million answer tokens."""

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{value!r} is not an http address\nhint: for example https://api.deepseek.com/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("a key must not stand in the address\nhint: put it into an environment variable: key_env")
        return value.rstrip("/").removesuffix(_PATH)

    def key(self) -> str | None:
        """The key.

        Raises:
            ConfigError: The variable is not set.
        """
        if self.key_env is None:
            return None
        if not (key := os.environ.get(self.key_env, "").strip()):
            raise ConfigError(
                f"the environment variable {self.key_env} is not set",
                where="data.makers synthesise",
                hint=f"export {self.key_env}=...  (it holds the key of {self.url})",
            )
        return key


class Endpoint:
    """Sends queries over HTTP, several at a time.

    A request that was answered is in the cache before anything else happens, so a killed run pays for at most those under
    way a second time; each carries its cache key as ``Idempotency-Key`` for endpoints that know it.
    """

    def __init__(self, config: EndpointConfig, around: Around) -> None:
        self._config, self._label = config, around.name
        asked = {"url": config.url, "model": config.model, "params": dict(config.params), "seed": around.seed}
        self._cache = Cache(around.cache / "answers", asked)
        self._bill, self._stop = Bill(), threading.Event()
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)

    def __call__(self, queries: Sequence[Query]) -> list[Answer]:
        """See ``Asker``.

        Raises:
            ServeError: The endpoint cannot be reached, refuses the key or the model, or keeps failing. Answers that came
                before stay in the cache.
        """
        return answered(queries, self._cache, self._bill, self._fetch)

    def bill(self) -> dict[str, int | float]:
        totals = self._bill.totals()
        if self._config.price_in is None and self._config.price_out is None:
            return totals
        cost = totals["tokens_in"] * (self._config.price_in or 0) + totals["tokens_out"] * (self._config.price_out or 0)
        return {**totals, "cost": round(cost / 1e6, 6)}

    def _fetch(self, missing: Sequence[Query]) -> list[Answer]:
        httpx = need("httpx", "synthesis")
        host = urlsplit(self._config.url).hostname or ""
        key = self._config.key()
        client = httpx.Client(
            timeout=self._config.timeout_s,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),  # no proxy stands before this machine
            limits=httpx.Limits(max_connections=self._config.concurrency),
        )
        pool = ThreadPoolExecutor(self._config.concurrency)
        with client, Progress(self._label, len(missing), "requests") as progress:
            try:
                futures = [pool.submit(self._answer, client, query) for query in missing]
                for future in as_completed(futures):
                    future.result()
                    progress.update()
            finally:
                self._stop.set()  # those under way end: they are paid, and their answers are kept
                pool.shutdown(cancel_futures=True)
                self._stop.clear()
        out = [future.result() for future in futures]
        self._refuse_silence(out)
        return out

    def _refuse_silence(self, out: Sequence[Answer]) -> None:
        """An endpoint that refuses whatever it is asked has a reason that concerns all requests."""
        if not self._bill.requests and all(answer.refused for answer in out):
            raise ServeError(
                f"every request was refused, the first: {out[0].refused}",
                where=self._config.url,
                hint="check model, params and prompt of the maker",
            )

    def _answer(self, client: Any, query: Query) -> Answer:
        """Ask until there is an answer or no hope."""
        problem, wait_s = "", 0.0
        for attempt in range(self._config.retries + 1):
            self._pause(wait_s)
            answer = self._ask_once(client, query)
            if isinstance(answer, Answer):
                if not answer.refused:
                    self._cache.put(query, answer)
                return answer
            problem, wanted_s = answer
            # Full jitter, so that threads that failed together do not come back together.
            own_s = min(self._config.backoff_s * 2**attempt, self._config.longest_wait_s) * random.uniform(0.5, 1.0)
            wait_s = own_s if wanted_s is None else wanted_s
            if wait_s > self._config.longest_wait_s:
                problem = f"{problem}; it wants {wait_s:.0f} s of rest"
                break
        raise ServeError(
            f"no answer: {problem}",
            where=self._config.url,
            hint="the same command continues later; answers that came are kept and not paid again",
        )

    def _ask_once(self, client: Any, query: Query) -> Answer | tuple[str, float | None]:
        """An answer, or what went wrong and how long the endpoint wants to be left alone (None: it does not say)."""
        import httpx

        body = {**self._config.params, "model": self._config.model, "messages": [dict(m) for m in query.messages]}
        ticket = self._ticket(query)
        try:
            response = client.post(
                self._config.url + _PATH, json=body, headers={"Idempotency-Key": self._cache.key(query)}
            )
        except httpx.TransportError as error:
            return f"{type(error).__name__} {error}".strip(), None
        if response.status_code == 200:
            answer = _read(response, self._config.url)
            self._pace.settle(ticket, answer.tokens_in + answer.tokens_out or ticket.tokens)
            return answer
        said = f"HTTP {response.status_code} {_short(response.text)}".strip()
        if response.status_code in _AGAIN:
            return said, retry_after(response.headers.get("retry-after"), time.time())
        if response.status_code in _REFUSED:
            return Answer("", refused=said)
        raise ServeError(
            said,
            where=self._config.url,
            hint=f"check url, model ({self._config.model}) and the key in {self._config.key_env or 'key_env'}",
        )

    def _ticket(self, query: Query) -> Ticket:
        said = sum(len(message["content"].encode()) for message in query.messages) // 3
        expected = said + int(self._config.params.get("max_tokens") or _TOKENS_OF_AN_ANSWER)
        while not isinstance(found := self._pace.enter(expected), Ticket):
            self._pause(found)
        return found

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise ServeError("stopped because another request failed", where=self._config.url)


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number of seconds or an HTTP date)."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None


def _read(response: Any, url: str) -> Answer:
    """The first choice of a chat completion."""
    try:
        body = response.json()
        text = body["choices"][0]["message"].get("content") or ""
        usage = body.get("usage") or {}
        return Answer(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ServeError(
            f"this is not a chat completion: {_short(response.text)}",
            where=url,
            hint="the url must be the base of an OpenAI-compatible API, usually ending in /v1",
        ) from None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"
