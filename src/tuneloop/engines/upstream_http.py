"""What the ``upstream`` engine needs of HTTP and of a tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from tuneloop.engines.config import EngineConfig
from tuneloop.engines.upstream_dialects import Tokenize
from tuneloop.errors import ModelError, ServeError

if TYPE_CHECKING:
    import httpx

    from tuneloop.models import Bundle

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def client(library: Any, base: str, config: EngineConfig) -> httpx.AsyncClient:
    upstream = config.upstream
    key = os.environ.get(upstream.key_env)
    made = library.AsyncClient(
        base_url=base,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=library.Timeout(upstream.read_timeout_s, connect=upstream.connect_timeout_s, pool=None),
        limits=library.Limits(max_connections=None, max_keepalive_connections=config.max_running),
        trust_env=urlsplit(base).hostname not in LOOPBACK,  # a proxy cannot reach this machine's own servers
    )
    return cast("httpx.AsyncClient", made)


async def chunks(reply: httpx.Response, *, streaming: bool) -> AsyncGenerator[dict[str, Any], None]:
    """The bodies of a stream of server-sent events, or the one body."""
    if not streaming:
        yield json.loads(await reply.aread())
        return
    async with aclosing(reply.aiter_lines()) as lines:  # type: ignore[type-var]
        async for line in lines:
            data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
            if data == "[DONE]":
                return
            if data:
                yield json.loads(data)


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


def exact_tokenizer(bundle: Bundle | None) -> Tokenize | None:
    """Text -> ids that say exactly this text, piece by piece; None where that cannot be had."""
    if bundle is None:
        return None
    from tuneloop.models import load_tokenizer

    try:
        tokenizer = load_tokenizer(bundle)
    except ModelError:
        return None

    def tokenize(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    exact = all(tokenizer.decode(tokenize(text)) == text for text in (" a", "a", "\n\n", "我"))
    return tokenize if exact else None
