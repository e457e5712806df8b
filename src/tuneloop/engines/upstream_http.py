"""What the ``upstream`` engine needs of HTTP and of a tokenizer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from tuneloop.engines.config import EngineConfig
from tuneloop.engines.grammar import control_tokens
from tuneloop.engines.upstream_dialects import ControlTokens, Tokenize
from tuneloop.errors import ModelError, ServeError

if TYPE_CHECKING:
    import aiohttp

    from tuneloop.models import Bundle

DRAIN_S = 0.5
KEEP_S = 4.0
"""How long an idle connection is kept: less than uvicorn's 5 s, so that none is used while the server closes it."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def client(library: Any, base: str, config: EngineConfig, *, keep: bool) -> aiohttp.ClientSession:
    """With ``keep``, connections are kept and used again. (httpx looks at every idle connection for each request, which took a third of
    a request's time at 32 connections.)"""
    upstream = config.upstream
    key = os.environ.get(upstream.key_env)
    made = library.ClientSession(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=library.ClientTimeout(
            total=None, sock_connect=upstream.connect_timeout_s, sock_read=upstream.read_timeout_s
        ),
        connector=library.TCPConnector(limit=0, **({"keepalive_timeout": KEEP_S} if keep else {"force_close": True})),
        trust_env=urlsplit(base).hostname not in LOOPBACK,  # a proxy cannot reach this machine's own servers
    )
    return cast("aiohttp.ClientSession", made)


class EventStream:
    """Bytes of a stream of server-sent events -> the JSON texts in it, as soon as they are whole."""

    def __init__(self) -> None:
        self._rest, self.done = b"", False

    def feed(self, piece: bytes) -> list[bytes]:
        """The texts that end in this piece; ``done`` tells whether ``[DONE]`` was among them."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = []
        for line in lines:
            data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                self.done = True
                break
            if data:
                found.append(data)
        return found


async def drain(pieces: AsyncIterator[bytes]) -> None:
    """Read what stands after the end of an answer, so that the connection serves again; a server that writes on and on
    costs the connection."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in pieces:
                pass


def check(status: int, text: str, where: str) -> None:
    """Raise what an answer that is not 200 says."""
    try:
        error = json.loads(text)["error"]
        message = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        message = text[:200]
    hint = "put its key into the variable that engine.upstream.key_env names" if status in (401, 403) else None
    if status != 200:
        raise ServeError(f"the server answered {status}: {message}", where=where, hint=hint)


def tokenizer_of(bundle: Bundle | None) -> Any:
    """A bundle's tokenizer; None where there is none to be had."""
    if bundle is None:
        return None
    from tuneloop.models import load_tokenizer

    with suppress(ModelError):
        return load_tokenizer(bundle)
    return None


def exact_tokenizer(tokenizer: Any) -> Tokenize | None:
    """Text -> ids that say exactly this text, piece by piece; None where that cannot be had."""
    if tokenizer is None:
        return None

    def tokenize(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    exact = all(tokenizer.decode(tokenize(text)) == text for text in (" a", "a", "\n\n", "我"))
    return tokenize if exact else None


def controls_of(tokenizer: Any) -> ControlTokens:
    """Of a tokenizer; none without one."""
    if tokenizer is None:
        return ControlTokens()
    end = tokenizer.eos_token_id
    return ControlTokens(control_tokens(tokenizer), frozenset() if end is None else frozenset((end,)))
