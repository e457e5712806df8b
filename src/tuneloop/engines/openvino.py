"""GGUF on OpenVINO, through ``openvino_genai.ContinuousBatchingPipeline``: the engine for many requests on a CPU.

OpenVINO's tokenizer, template and text interface are not used; it is given token ids and gives token ids back. What it
computes with depends on ``engine.dtype``:

* ``float32``: as the file says, in float32. Greedy answers are those of naive ``generate`` over the same weights.
* ``auto`` (default): activations and cache in 8 bits, which is about twice as fast (``benchmarks/serve.py``). Greedy
  answers leave those of naive ``generate`` where two tokens are about as probable, as llama.cpp's do, which also rounds
  activations to 8 bits.
* ``bfloat16``, ``float16``: that precision for activations and cache. Where the CPU computes only one of the two,
  OpenVINO takes that one.

Not declared, because they are not what ``Sampling`` promises: its penalties push a token up whose logit is negative;
there is no ``logit_bias``; alternatives to a token are not reported.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.engines.base import Capabilities, admit
from tuneloop.engines.config import EngineConfig
from tuneloop.engines.gguf_header import context_length, read_header
from tuneloop.engines.platform import available_threads, keep_signals
from tuneloop.errors import ModelError, ServeError, need
from tuneloop.types import FinishReason, Request, Sampling, TokenEvent

if TYPE_CHECKING:
    from tuneloop.models import Bundle

ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})
"""What OpenVINO's GGUF reader knows (gguf_modeling.cpp, 2026.4). R1-Distill models are one of the first two."""

BLOCK_TOKENS = 32
"""Size of a cache block on a CPU (kv_cache_manager.hpp)."""

_PRECISION: dict[str, dict[str, Any]] = {
    "auto": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "u8"},
    "float32": {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    },
    "bfloat16": {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"},
    "float16": {"INFERENCE_PRECISION_HINT": "f16", "KV_CACHE_PRECISION": "f16"},
}
_TELEMETRY = "openvino_telemetry"


class OpenVinoEngine:
    """See the module. All work is done inside ``poll``, one token of every running request at a time.

    Args:
        bundle: Of kind ``gguf``.
        config: Context, batch, threads, prefix cache, dtype.

    Raises:
        ModelError: Not a GGUF bundle, or OpenVINO cannot compute it.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        if why := unreadable(bundle):
            raise ModelError(why, where=str(bundle.path), hint="use engine.name: llamacpp or transformers")
        with _no_telemetry():
            self._genai, self._openvino = need("openvino_genai", "openvino"), need("openvino", "openvino")
        context = config.context_of(context_length(bundle.gguf_file))
        self.capabilities = Capabilities(
            logprobs=True,
            seed=True,
            sampling=True,
            batch_invariant=False,
            max_context_tokens=context,
            max_running=config.max_running,
        )
        self._pipeline = self._load(bundle.gguf_file, context, config)
        self._waiting: deque[Request] = deque()
        self._running: dict[str, _Job] = {}
        self._events: list[TokenEvent] = []
        self._number = 0
        self._closed = False

    def submit(self, request: Request) -> None:
        held = request.id in self._running or any(r.id == request.id for r in self._waiting)
        if (ended := admit(request, self.capabilities, closed=self._closed, held=held)) is not None:
            self._events.append(ended)
            return
        self._waiting.append(request)

    def poll(self, timeout_s: float) -> list[TokenEvent]:
        if self._closed:
            return []
        while self._waiting and len(self._running) < self.capabilities.max_running:
            self._begin(self._waiting.popleft())
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for job in list(self._running.values()):
                self._collect(job)
        elif not self._events:
            time.sleep(timeout_s)
        events, self._events = self._events, []
        return events

    def cancel(self, request_id: str) -> None:
        if (job := self._running.pop(request_id, None)) is not None:
            job.handle.cancel()  # the pipeline drops it in its next step
        elif waiting := [r for r in self._waiting if r.id == request_id]:
            self._waiting.remove(waiting[0])
        else:
            return
        self._events.append(TokenEvent(request_id, finish="cancelled"))

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        raise ServeError("openvino does not score given tokens", hint="score with engine.name: transformers")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._running.clear()
        self._waiting.clear()
        self._events.clear()
        with keep_signals():
            del self._pipeline

    def _load(self, file: Path, context: int, config: EngineConfig) -> Any:
        threads = config.threads or available_threads()
        scheduler = self._genai.SchedulerConfig()
        scheduler.max_num_seqs = config.max_running
        scheduler.enable_prefix_caching = config.prefix_cache
        # Room for every running request at its longest: a request that runs can never lack memory, and no more is taken.
        scheduler.num_kv_blocks = config.max_running * (math.ceil(context / BLOCK_TOKENS) + 1)
        properties = {"INFERENCE_NUM_THREADS": threads, "sampler_num_threads": threads} | _PRECISION[config.dtype]
        try:
            with keep_signals():
                return self._genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties, {})
        except (RuntimeError, IndexError) as error:  # IndexError: a key that its reader expects is not in the file
            raise ModelError(
                f"OpenVINO cannot load this model: {_last_line(error)}",
                where=str(file),
                hint="it reads F16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K; use engine.name: llamacpp for others",
            ) from error

    def _begin(self, request: Request) -> None:
        import numpy as np

        room = (self.capabilities.max_context_tokens or 0) - len(request.prompt_ids)
        prompt = self._openvino.Tensor(np.array([request.prompt_ids], dtype=np.int64))
        self._number += 1
        try:
            handle = self._pipeline.add_request(self._number, prompt, self._generation(request, room))
        except RuntimeError as error:
            self._events.append(TokenEvent(request.id, finish="error", error=_last_line(error)))
            return
        self._running[request.id] = _Job(request, handle)

    def _generation(self, request: Request, room: int) -> Any:
        out = self._genai.GenerationConfig()
        sampling = request.sampling
        out.max_new_tokens = min(sampling.max_tokens, room)
        out.logprobs = int(sampling.logprobs)  # of the chosen token, under the model's own distribution
        if request.stop_ids:
            out.stop_token_ids = set(request.stop_ids)
            out.eos_token_id = request.stop_ids[0]  # otherwise the file's own end token would end the answer too
        else:
            out.ignore_eos = True
        if sampling.temperature > 0:
            out.do_sample = True
            out.temperature, out.top_p = sampling.temperature, sampling.top_p
            if sampling.top_k:
                out.top_k = sampling.top_k
            out.rng_seed = _seed(sampling)
        return out

    def _collect(self, job: _Job) -> None:
        """Turn what the last step made for a request into one event."""
        status = job.handle.get_status()  # before reading: what is read then is complete
        tokens: list[int] = []
        logprobs: list[float] = []
        while job.handle.can_read():
            for output in job.handle.read().values():
                tokens += output.generated_ids
                if job.request.sampling.logprobs:
                    logprobs += output.generated_log_probs
        states = self._genai.GenerationStatus
        finish: FinishReason | None = None
        error: str | None = None
        if status == states.FINISHED:
            finish = "length"
            if tokens and tokens[-1] in job.request.stop_ids:
                finish = "stop"
                del tokens[-1], logprobs[-1:]
        elif status == states.IGNORED:
            finish, error = "error", "OpenVINO has no memory left for this request"
        if finish:
            del self._running[job.request.id]
        if tokens or finish:
            self._events.append(TokenEvent(job.request.id, tuple(tokens), tuple(logprobs), finish, error))


@dataclass(eq=False, slots=True)
class _Job:
    """A running request and OpenVINO's end of it."""

    request: Request
    handle: Any


def unreadable(bundle: Bundle) -> str | None:
    """Why OpenVINO cannot answer with this bundle as it was trained; None when it can. Needs no package."""
    if bundle.kind != "gguf":
        return f"openvino reads GGUF, and this bundle is a {bundle.kind}"
    if bundle.virtual_tokens:
        return "GGUF cannot hold the virtual tokens of this adapter (prefix or prompt tuning)"
    header = read_header(bundle.gguf_file)
    if header.architecture not in ARCHITECTURES:
        return (
            f"openvino does not know the architecture {header.architecture!r} (only {', '.join(sorted(ARCHITECTURES))})"
        )
    if "rope_freqs.weight" in header.tensors or header.of_architecture("rope.scaling.type") not in (None, "none"):
        return (
            "openvino's GGUF reader ignores the scaled rotary frequencies of this model, so its answers would be wrong"
        )
    return None


def _seed(sampling: Sampling) -> int:
    return random.SystemRandom().getrandbits(63) if sampling.seed is None else sampling.seed % (1 << 63)


def _last_line(error: BaseException) -> str:
    """OpenVINO's messages begin with the places in its own source; the reason comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Let OpenVINO find no ``openvino_telemetry``: it then takes its own stub, and nobody is told of this machine."""
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
