"""Any server with OpenAI's interface as an engine: vLLM, SGLang, llama-server, another gateway, a cloud endpoint.

Prompts go out as token ids. What the server gives back is found out once, at the start (``upstream_dialects``), and
declared. That it holds the same model as the bundle, whose tokenizer and template are used, cannot be seen from here.
With ``engine.upstream.command`` the server is started here, ended with the engine, and started again when it dies.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from tuneloop.engines.base import DENIED, admit, collect
from tuneloop.engines.config import EngineConfig, UpstreamConfig
from tuneloop.engines.grammar import REFUSED
from tuneloop.engines.pacing import together
from tuneloop.engines.upstream_dialects import (
    PROBE_GRAMMAR,
    PROBE_IDS,
    PROBE_TOKENS,
    PROBE_WORD,
    Dialect,
    Job,
    LlamaServer,
    Text,
    Vllm,
)
from tuneloop.engines.upstream_http import (
    EventStream,
    check,
    client,
    controls_of,
    drain,
    exact_tokenizer,
    tokenizer_of,
)
from tuneloop.engines.upstream_server import OwnServer
from tuneloop.errors import ConfigError, ServeError, need
from tuneloop.types import Request, Sampling, TokenEvent

if TYPE_CHECKING:
    import aiohttp

    from tuneloop.models import Bundle

UNLIMITED_TOKENS = 1 << 30
_PROBE = Request("probe", tuple(PROBE_IDS))
_PROBE_GRAMMAR = Request("probe", tuple(PROBE_IDS), Sampling(PROBE_TOKENS, grammar=PROBE_GRAMMAR))
SHUTDOWN_S = 10.0
DYING_S = 5.0
"""The connections of a server that was started here break a moment before it can be seen to be dead. For so long errors
wait whether they are its death's: then their requests may be tried again."""


class UpstreamEngine:
    """See the module.

    Args:
        bundle: Its tokenizer is used where the server gives only text; its folder where the server is started here.
        config: ``config.upstream`` says where the server is.

    Raises:
        ConfigError: No address.
        ServeError: The server cannot be reached, or does not talk like one of those that are known.
    """

    name = "upstream"

    def __init__(self, bundle: Bundle | None, config: EngineConfig) -> None:
        self._aiohttp = need("aiohttp", "serve")
        upstream = config.upstream
        if not upstream.url:
            raise ConfigError("there is no server's address", where="engine.upstream.url")
        self._base = upstream.url.rstrip("/").removesuffix("/v1")
        self._own = OwnServer(upstream, self._base, bundle, config.start_timeout_s) if upstream.command else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[None] | None] = {}
        self._events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
        self._doubt_until, self._doubted = 0.0, list[TokenEvent]()
        """Until when (``time.monotonic()``) the server may be dying, and the errors that wait to know it."""
        self._closed = False
        self._clients: tuple[aiohttp.ClientSession, ...] = ()
        try:
            asyncio.run_coroutine_threadsafe(self._begin(bundle, config), self._loop).result()
        except BaseException:
            self.close()
            raise

    # ---- the driving thread ----

    def submit(self, request: Request) -> None:
        with self._lock:
            held = request.id in self._jobs
            if (ended := admit(request, self.capabilities, closed=self._closed, held=held)) is not None:
                self._events.put(ended)
                return
            limit = self.capabilities.max_context_tokens or UNLIMITED_TOKENS
            job = Job(request, min(request.sampling.max_tokens, limit - len(request.prompt_ids)))
            self._jobs[request.id] = asyncio.run_coroutine_threadsafe(self._run(job), self._loop)

    def poll(self, timeout_s: float) -> list[TokenEvent]:
        """See ``Engine.poll``.

        Raises:
            ServeError: The server that was started here has died.
        """
        if self._closed:
            return []
        events = collect(self._events, timeout_s)
        if self._own is None:
            return events
        self._own.check()
        if time.monotonic() < self._doubt_until:
            self._doubted += [e for e in events if e.finish == "error"]
            return [e for e in events if e.finish != "error"]
        events, self._doubted = self._doubted + events, []
        return events

    def cancel(self, request_id: str) -> None:
        with self._lock:
            if request_id not in self._jobs:
                return
            job = self._jobs.pop(request_id)
            self._events.put(TokenEvent(request_id, finish="cancelled"))
        if job is not None:
            job.cancel()  # closes the connection, which ends the request over there

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        raise ServeError("upstream does not score given tokens", hint="score with engine.name: transformers")

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.clear()
        asyncio.run_coroutine_threadsafe(self._shutdown(), self._loop).result(SHUTDOWN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._own is not None:
            self._own.close()

    # ---- the loop's thread ----

    async def _begin(self, bundle: Bundle | None, config: EngineConfig) -> None:
        self._clients = tuple(client(self._aiohttp, self._base, config, keep=keep) for keep in (True, False))
        self._places = asyncio.Semaphore(config.max_running)
        try:
            model, reported = await self._model(config.upstream)
            self.dialect = await self._probe(bundle, model)
            if isinstance(self.dialect, LlamaServer):
                reported = await self._llama_context() or reported
        except (self._aiohttp.ClientError, TimeoutError) as error:
            raise ServeError(
                f"the server cannot be reached: {type(error).__name__}: {error}",
                where=self._base,
                hint="start it, or give engine.upstream.command",
            ) from error
        limits = [n for n in (config.context_tokens, reported) if n]
        self.capabilities = self.dialect.capabilities(min(limits) if limits else None, config.max_running)

    async def _model(self, upstream: UpstreamConfig) -> tuple[str | None, int | None]:
        """The model's name over there and its context, as far as ``/v1/models`` says."""
        reply = await self._get("/v1/models")
        found = reply.get("data") or []
        names = [str(m.get("id")) for m in found]
        if upstream.model and names and upstream.model not in names:
            raise ConfigError(
                f"the server has no model {upstream.model!r}; it has {', '.join(names)}", where="engine.upstream.model"
            )
        chosen: dict[str, Any] = next((m for m in found if upstream.model in (None, m.get("id"))), {})
        context = chosen.get("max_model_len")
        return upstream.model or chosen.get("id"), context if isinstance(context, int) else None

    async def _llama_context(self) -> int | None:
        settings = (await self._get("/props")).get("default_generation_settings") or {}
        context = settings.get("n_ctx")
        return context if isinstance(context, int) and context > 0 else None

    async def _get(self, path: str) -> dict[str, Any]:
        """A JSON object, or nothing where there is no such route."""
        async with self._clients[0].get(self._base + path, allow_redirects=False) as reply:
            status, text = reply.status, await reply.text()
        if status == 404:
            return {}
        check(status, text, self._base)
        found = json.loads(text)
        return found if isinstance(found, dict) else {}

    async def _probe(self, bundle: Bundle | None, model: str | None) -> Dialect:
        """Ask for one token in each way, the richest first."""
        tokenizer = tokenizer_of(bundle)
        tokenize, vllm = exact_tokenizer(tokenizer), Vllm(model, controls_of(tokenizer))
        ways: list[Dialect] = [vllm, LlamaServer(), *([Text(model, tokenize)] if tokenize else [])]
        refusal = "no way was tried"
        for way in ways:
            job = Job(_PROBE, 1)
            status, text = await self._ask_once(way, job)
            known_route = way.path.startswith("/v1/")  # others may be refused like anything that is not there
            if (status in (401, 403, 429) and known_route) or status >= 500:
                check(status, text, self._base)
            if status != 200:
                refusal = f"{status}: {text[:200]}"
                continue
            with suppress(LookupError, TypeError, ValueError, AttributeError, ServeError):
                event = way.read(job, json.loads(text))
                if way is vllm and event.token_ids and await self._keeps_to_grammars(vllm):
                    return vllm.with_grammar()
                if event.token_ids or isinstance(way, Text):
                    return way
            refusal = f"{way.path} answered without tokens"
        raise ServeError(
            f"the server takes no token ids in any known way ({refusal})",
            where=self._base,
            hint="it must answer /v1/completions with a prompt of token ids, as vLLM, SGLang and llama-server do",
        )

    async def _keeps_to_grammars(self, way: Vllm) -> bool:
        """Whether an answer is what its schema demands: a server that does not know the field may leave it out silently."""
        job = Job(_PROBE_GRAMMAR, PROBE_TOKENS)
        status, text = await self._ask_once(way, job)
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            return status == 200 and json.loads(json.loads(text)["choices"][0]["text"]) == PROBE_WORD
        return False

    async def _ask_once(self, way: Dialect, job: Job) -> tuple[int, str]:
        """Status and text of an answer in one piece."""
        async with self._post(way.path, way.body(job) | {"stream": False}) as reply:
            return reply.status, await reply.text()

    @asynccontextmanager
    async def _post(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The server may have closed a kept connection just now; then the request goes over a new one, once."""
        kept, fresh = self._clients
        async with AsyncExitStack() as stack:

            async def send(session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
                return await stack.enter_async_context(
                    session.post(self._base + path, json=body, allow_redirects=False)
                )

            try:
                reply = await send(kept)
            except self._aiohttp.ClientConnectorError:
                raise
            except (self._aiohttp.ServerDisconnectedError, self._aiohttp.ClientOSError):
                reply = await send(fresh)
            yield reply

    async def _run(self, job: Job) -> None:
        try:
            async with self._places:
                while job.left > 0 and not await self._exchange(job):
                    pass
        except ServeError as error:
            self._emit(job, TokenEvent(job.request.id, finish="error", error=error.what))
        except (self._aiohttp.ClientError, TimeoutError) as error:
            problem = f"the connection to the server failed: {type(error).__name__}: {error}"
            self._doubt()
            self._emit(job, TokenEvent(job.request.id, finish="error", error=problem))
        except Exception as error:  # whatever it was, the request must end
            problem = f"the server sent what cannot be understood: {type(error).__name__}: {error}"
            self._doubt()
            self._emit(job, TokenEvent(job.request.id, finish="error", error=problem))

    def _doubt(self) -> None:
        """A connection has failed: perhaps the server is dying."""
        self._doubt_until = time.monotonic() + DYING_S

    async def _exchange(self, job: Job) -> bool:
        """One call; whether the request has ended."""
        body = self.dialect.body(job)
        before = len(job.made)
        async with self._post(self.dialect.path, body) as reply:
            if reply.status != 200:
                self._explain(job, reply.status, (await reply.read()).decode("utf-8", "replace"))
            if not body["stream"]:
                ended = self._take(job, [await reply.read()])
            else:
                ended = await self._follow(job, reply)
        if ended is not None:
            return ended
        if len(job.made) == before or not isinstance(self.dialect, LlamaServer):
            self._doubt()
            raise ServeError("the server ended its stream without saying why")
        return False

    def _explain(self, job: Job, status: int, text: str) -> None:
        """Raise what an answer that is not 200 says."""
        try:
            check(status, text, self._base)
        except ServeError as error:
            if status != 400:
                raise
            blamed = DENIED if job.request.sampling.grammar is None else REFUSED
            raise ServeError(f"{blamed}{error.what}", where=error.where) from error

    async def _follow(self, job: Job, reply: aiohttp.ClientResponse) -> bool | None:
        """Take a stream until the request has ended or its next call is due; None when the stream has ended first."""
        stream = EventStream()
        pieces = reply.content.iter_any()
        async for piece in pieces:
            ended = self._take(job, stream.feed(piece))
            if ended:
                await drain(pieces)
            if ended is not None or stream.done:
                return ended
        return self._take(job, stream.feed(b"\n"))

    def _take(self, job: Job, chunks: Sequence[bytes]) -> bool | None:
        """Emit what came in one go as one event; whether the request has ended, None when its stream goes on."""
        found: list[TokenEvent] = []
        try:
            for chunk in chunks:
                event = self.dialect.read(job, json.loads(chunk))
                if event.token_ids or event.finish:
                    found.append(event)
                if event.finish or job.repair:
                    return event.finish is not None
        finally:
            for event in together(found):
                self._emit(job, event)
        return None

    def _emit(self, job: Job, event: TokenEvent) -> None:
        with self._lock:
            if job.request.id not in self._jobs:
                return  # cancelled
            if event.finish:
                del self._jobs[job.request.id]
            self._events.put(event)

    async def _shutdown(self) -> None:
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for session in self._clients:
            await session.close()
        await self._loop.shutdown_asyncgens()
