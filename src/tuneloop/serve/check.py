"""Proof that a bundle can be served: a real gateway on a free port, real requests over HTTP, measured."""

from __future__ import annotations

import json
import secrets
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from tuneloop.chat import Chat
from tuneloop.errors import ServeError
from tuneloop.models import load_tokenizer
from tuneloop.progress import Progress
from tuneloop.rundir import RunDir, read_json
from tuneloop.serve.config import ServeConfig
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.keys import KeyRing
from tuneloop.serve.server import Server, listen
from tuneloop.types import Message

if TYPE_CHECKING:
    from tuneloop.models import Bundle

FILE = "serve.json"
TIMEOUT_S = 600.0
START_S = 30.0


@dataclass(frozen=True)
class ServeCheck:
    """What was measured over HTTP. Latencies are in seconds, of the ``n`` requests that were sent at ``concurrency``."""

    engine: str
    n: int
    errors: int
    concurrency: int
    p50_s: float
    p95_s: float
    first_token_s: float
    """Of the one streamed request."""
    tokens_per_s: float
    """Made tokens over wall time, all requests together."""
    streamed_equals_whole: bool
    answers: tuple[str, ...]
    matches: int | None = None
    """Answers that are the expected ones; None when nothing was expected."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def smoke(
    config: ServeConfig,
    bundle: Bundle,
    prompts: Sequence[Sequence[Message]],
    out: RunDir,
    *,
    expected: Sequence[str] | None = None,
    concurrency: int = 8,
    max_tokens: int = 32,
) -> ServeCheck:
    """See ``tuneloop.serve.smoke``.

    Raises:
        ServeError: There is nothing to ask, or the gateway did not come up.
    """
    if not prompts:
        raise ServeError("there is no prompt to ask", hint="give at least one")
    with (
        running(config, bundle) as (gateway, url, key),
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S, trust_env=False
        ) as http,
    ):
        check = _measure(_Asker(http, gateway.model, max_tokens), gateway.process.name, prompts, concurrency)
    if expected is not None:
        hits = sum(a.strip() == e.strip() for a, e in zip(check.answers, expected, strict=True))
        check = replace(check, matches=hits)
    out.write_json(FILE, check.to_json())
    return check


def load(out: RunDir) -> ServeCheck:
    """Read ``serve.json`` back."""
    values = read_json(out / FILE)
    return ServeCheck(**values | {"answers": tuple(values["answers"])})


@contextmanager
def running(config: ServeConfig, bundle: Bundle, *, batches: bool = False) -> Iterator[tuple[Gateway, str, str]]:
    """A gateway on a free loopback port and a thread of its own: (gateway, base URL, key). It drains at the end.

    Only with ``batches`` it runs those that are open in the database.
    """
    quiet = config.batches.model_copy(update={"enabled": batches})
    config = config.model_copy(update={"host": "127.0.0.1", "port": 0, "auth": True, "batches": quiet})
    key = secrets.token_urlsafe(32)
    with listen(config) as listener:
        gateway = Gateway(
            config, bundle, Chat(load_tokenizer(bundle)), KeyRing.of(key, scopes=("chat", "batch", "metrics"))
        )
        gateway.process.start()
        server = Server(gateway)
        thread = threading.Thread(target=server.run, args=([listener],), name="gateway", daemon=True)
        try:
            thread.start()
            deadline = time.monotonic() + START_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise ServeError("the gateway did not start")
                time.sleep(0.005)
            yield gateway, f"http://127.0.0.1:{listener.getsockname()[1]}", key
        finally:
            gateway.draining = server.should_exit = True
            thread.join()
            gateway.process.close()


def _measure(asker: _Asker, engine: str, prompts: Sequence[Sequence[Message]], concurrency: int) -> ServeCheck:
    began = time.monotonic()
    with (
        Progress("serving over HTTP", len(prompts), "requests") as progress,
        ThreadPoolExecutor(min(concurrency, len(prompts))) as pool,
    ):
        replies = []
        for reply in pool.map(asker.ask, prompts):
            replies.append(reply)
            progress.update()
    wall = time.monotonic() - began
    first_token_s, streamed = asker.ask_streaming(prompts[0])
    seconds = sorted(r.seconds for r in replies)
    return ServeCheck(
        engine=engine,
        n=len(replies),
        errors=sum(r.error is not None for r in replies),
        concurrency=concurrency,
        p50_s=statistics.median(seconds),
        p95_s=seconds[max(0, -(-95 * len(seconds) // 100) - 1)],  # nearest rank
        first_token_s=first_token_s,
        tokens_per_s=sum(r.tokens for r in replies) / wall,
        streamed_equals_whole=streamed == replies[0].text,
        answers=tuple(r.text for r in replies),
    )


@dataclass(frozen=True)
class _Reply:
    text: str
    tokens: int
    seconds: float
    error: str | None = None


class _Asker:
    """Asks over HTTP what a user's program would ask."""

    def __init__(self, client: httpx.Client, model: str, max_tokens: int) -> None:
        self._client, self._model, self._max_tokens = client, model, max_tokens

    def ask(self, messages: Sequence[Message]) -> _Reply:
        began = time.monotonic()
        try:
            reply = self._client.post("/v1/chat/completions", json=self._body(messages))
            seconds, found = time.monotonic() - began, reply.json()
        except (httpx.HTTPError, ValueError) as error:
            return _Reply("", 0, time.monotonic() - began, f"{type(error).__name__}: {error}")
        if reply.status_code != 200:
            return _Reply("", 0, seconds, str(found))
        return _Reply(found["choices"][0]["message"]["content"], found["usage"]["completion_tokens"], seconds)

    def ask_streaming(self, messages: Sequence[Message]) -> tuple[float, str]:
        """Seconds to the first text, and the whole text."""
        began, first, text = time.monotonic(), 0.0, ""
        with self._client.stream("POST", "/v1/chat/completions", json=self._body(messages) | {"stream": True}) as reply:
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line.removeprefix("data: ")).get("choices", []):
                    piece = choice["delta"].get("content") or ""
                    first = first or (time.monotonic() - began if piece else 0.0)
                    text += piece
        return first, text

    def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
        said = [{"role": m.role, "content": m.content} for m in messages]
        return {"model": self._model, "messages": said, "max_tokens": self._max_tokens, "temperature": 0}
