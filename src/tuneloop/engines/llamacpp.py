"""GGUF on llama.cpp, through the ``xllamacpp`` wheel (llama.cpp's server as a library).

llama.cpp's own tokenizer, template and HTTP interface are not used; it is given token ids and gives token ids back.
Four habits of its server are corrected here:

* Its stream leaves out the ids of tokens that end inside a UTF-8 character (rare Chinese characters, emoji). A gap
  shows in the token count; the stream is then left, and the missing tokens are made again, two or three at a time and
  without streaming, where all ids are reported.
* It always ends at the model's own end tokens. Here ``stop_ids`` decide; at another end token the answer goes on.
* A second piece would begin the answer's grammar anew, so an answer with a grammar is one stream, and tokens that it
  leaves out are found again from the text. Each token is held against the grammar here too: llama.cpp goes on without
  a grammar that it cannot read, and says nothing.
* It installs signal handlers and opens an HTTP port. The handlers are put back; the port is a socket in a private
  folder behind a random key.
"""

from __future__ import annotations

import queue
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.engines import grammar
from tuneloop.engines.base import Capabilities, EngineStats, admit, collect
from tuneloop.engines.config import EngineConfig
from tuneloop.engines.gguf_header import context_length
from tuneloop.engines.llamacpp_piece import Guided, Job, Piece, Said
from tuneloop.engines.llamacpp_slots import Slots
from tuneloop.engines.platform import available_threads, keep_signals
from tuneloop.errors import ModelError, ServeError, TuneloopError, need
from tuneloop.models import load_tokenizer
from tuneloop.types import FinishReason, Request, TokenEvent

if TYPE_CHECKING:
    from tuneloop.models import Bundle

_REPAIR_TOKENS = 3
_REST_S = 0.005
"""So long the other answers' tokens of a step may take to come too: waking up for each takes llama.cpp's cores from it."""
MAX_TOP_LOGPROBS = 20
_LONGEST_SOCKET_FOLDER = 90
"""A socket's path has at most 107 bytes (unix(7))."""


class LlamaCppEngine:
    """See the module.

    Args:
        bundle: Of kind ``gguf``.
        config: Context, slots, threads, prefix cache.

    Raises:
        ModelError: Not a GGUF bundle, or llama.cpp cannot load it.
    """

    name = "llamacpp"

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        xllamacpp = need("xllamacpp", "llamacpp")
        if bundle.virtual_tokens:
            raise ModelError(
                "GGUF cannot hold the virtual tokens of this adapter (prefix or prompt tuning)",
                where=str(bundle.path),
                hint="use engine.name: transformers, or train with method: lora",
            )
        if bundle.kind != "gguf":
            raise ModelError(
                f"llamacpp reads GGUF, and this bundle is a {bundle.kind}",
                where=str(bundle.path),
                hint="compress it first (tuneloop compress), or use engine.name: transformers",
            )
        context = config.context_of(context_length(bundle.gguf_file))
        self.capabilities = Capabilities(
            logprobs=True,
            seed=True,
            sampling=True,
            logit_bias=True,
            top_logprobs=MAX_TOP_LOGPROBS,
            grammar=grammar.available(),
            max_context_tokens=context,
            max_running=config.max_running,
        )
        self._guides = grammar.Guides(lambda: load_tokenizer(bundle))
        self._prefix_cache = config.prefix_cache
        self._server = _start(xllamacpp, bundle.gguf_file, context, config)
        self._pool = ThreadPoolExecutor(config.max_running, "llamacpp")
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._slots = Slots(config.max_running, remember=config.prefix_cache)
        self._events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
        self._closed = False
        self._queries = self._hits = 0

    def submit(self, request: Request) -> None:
        with self._lock:
            held = request.id in self._jobs
            if (ended := admit(request, self.capabilities, closed=self._closed, held=held)) is not None:
                self._events.put(ended)
                return
            job = self._jobs[request.id] = Job(request)
            self._waiting.append(job)
            self._start_waiting()

    def poll(self, timeout_s: float) -> list[TokenEvent]:
        if self._closed:
            return []
        events = collect(self._events, timeout_s)
        if events and len(self._jobs) > 1:
            time.sleep(_REST_S)
            events += collect(self._events, 0)
        return events

    def cancel(self, request_id: str) -> None:
        with self._lock:
            if (job := self._jobs.get(request_id)) is None:
                return
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._finish(job, "cancelled")

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        raise ServeError(
            "llama.cpp's server does not report the probabilities of given tokens",
            hint="score with engine.name: transformers",
        )

    def stats(self) -> EngineStats:
        with self._lock:
            held = sum(len(j.request.prompt_ids) + len(j.made) for j in self._jobs.values() if j not in self._waiting)
            room = (self.capabilities.max_context_tokens or 1) * self.capabilities.max_running
            return EngineStats(min(held / room, 1.0), self._queries, self._hits)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.clear()
            for job in self._jobs.values():
                job.cancelled = True
        self._pool.shutdown(wait=True)
        self._guides.close()
        del self._server  # joins llama.cpp's loop

    def _start_waiting(self) -> None:
        """Give idle slots to waiting jobs. Lock is held."""
        while self._waiting and self._slots:
            job = self._waiting.popleft()
            slot, known = self._slots.take(job.request.prompt_ids)
            self._queries += len(job.request.prompt_ids)
            self._hits += known
            self._pool.submit(self._run, job, slot)

    def _run(self, job: Job, slot: int) -> None:
        try:
            finish, error = self._answer(job, slot), None
        except TuneloopError as problem:
            finish, error = "error", problem.what
        except Exception as problem:  # whatever it was, the request must end
            finish, error = "error", f"{type(problem).__name__}: {problem}"
        with self._lock:
            self._slots.give_back(slot, job.request.prompt_ids + tuple(job.made))
            self._finish(job, finish, job.error or error)
            if not self._closed:
                self._start_waiting()

    def _finish(self, job: Job, finish: FinishReason, error: str | None = None) -> None:
        del self._jobs[job.request.id]
        self._events.put(TokenEvent(job.request.id, finish=finish, error=error))

    def _answer(self, job: Job, slot: int) -> FinishReason:
        """Stream piece by piece; a gap in the stream is filled without streaming, then the stream goes on."""
        sampling = job.request.sampling
        guided = None
        if sampling.grammar is not None:
            guided = Guided(self._guides, self._guides.make(job.request), self._guides.text(sampling.grammar))
        room = min(sampling.max_tokens, (self.capabilities.max_context_tokens or 0) - len(job.request.prompt_ids))
        streaming = True
        while job.finish is None:
            if (left := room - len(job.made)) <= 0:
                return "length"
            piece = Piece(job, self._emit, left if streaming else min(left, _REPAIR_TOKENS), streaming, guided)
            self._server.handle_completions(piece.body(slot, self._prefix_cache), piece.on_chunk)
            if piece.count == 0 and not piece.gap and job.finish is None:
                return "length"
            streaming = not piece.gap
        return job.finish

    def _emit(self, job: Job, token: int, said: Said | None) -> None:
        job.made.append(token)
        logprobs = () if said is None else (said.logprob,)
        top = (said.top,) if said is not None and job.request.sampling.top_logprobs else ()
        self._events.put(TokenEvent(job.request.id, (token,), logprobs, top=top))


def _start(xllamacpp: Any, file: Path, context: int, config: EngineConfig) -> Any:
    threads = config.threads or available_threads()
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx, params.kv_unified = config.max_running, context * config.max_running, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup, params.verbosity, params.cache_ram_mib = False, -1, 0
    params.ui, params.endpoint_slots, params.n_threads_http = False, False, 1
    params.api_keys = [secrets.token_urlsafe(32)]
    folder = Path(tempfile.mkdtemp(prefix="tuneloop-"))  # mode 0700
    if len(str(folder)) < _LONGEST_SOCKET_FOLDER:
        params.hostnames = [str(folder / "llama.sock")]
    try:
        with keep_signals():
            server = xllamacpp.Server(params)
        # Its loop must have begun before it can be told to end: a server closed at once would hang in its destructor.
        server.handle_completions({"prompt": [0], "n_predict": 1, "cache_prompt": False})
        return server
    except RuntimeError as error:
        raise ModelError(
            f"llama.cpp cannot load this model: {error}",
            where=str(file),
            hint="its architecture may be newer than the installed xllamacpp, or memory is short: "
            "lower engine.context_tokens or engine.max_running",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nobody is meant to connect
