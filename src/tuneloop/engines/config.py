"""Configuration of engines. One class for all of them: a key that an engine does not need has no effect on it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tuneloop.config import Config

DEFAULT_STREAM_INTERVAL_S = 0.05


class FakeConfig(Config):
    """The engine of tests: no model, answers from the prompt itself."""

    answer_ids: tuple[int, ...] = ()
    """Always answer these token ids; empty echoes the prompt."""
    token_delay_s: float = Field(0.0, ge=0)
    """How long a step (one token for each running request) takes."""
    context_tokens: int = Field(4096, ge=1)
    """The longest prompt and answer together."""
    crash_after_tokens: int | None = Field(None, ge=0)
    """Kill the process when this many tokens have been made."""
    hang_after_tokens: int | None = Field(None, ge=0)
    """Stop doing anything when this many tokens have been made."""
    fault_once_file: Path | None = None
    """Crash or hang only while this file does not exist, and create it then: the restarted engine is healthy."""


class UpstreamConfig(Config):
    """A server with OpenAI's interface (vLLM, SGLang, llama-server, a cloud endpoint), ours to start or already there."""

    url: str = ""
    """Its address, such as http://127.0.0.1:8001; a path such as /v1 at the end is understood."""
    model: str | None = None
    """The model's name there; default: the first of /v1/models."""
    key_env: str = "TUNELOOP_UPSTREAM_KEY"
    """The environment variable that holds the API key. Unset: no key is sent."""
    connect_timeout_s: float = Field(5.0, gt=0)
    """How long a connection may take."""
    read_timeout_s: float = Field(60.0, gt=0)
    """How long the server may be silent within an answer; then the request ends with an error."""
    command: tuple[str, ...] = ()
    """The words of the command that starts the server; it is ended with the engine, and started again when it dies.
    ``{path}`` stands for the bundle's folder, ``{port}`` for the port of ``url``:
    [/opt/vllm/bin/vllm, serve, "{path}", --port, "{port}"]."""
    health_path: str = "/health"
    """With ``command``: the route that answers 200 when the server is ready."""

    @model_validator(mode="after")
    def _an_address(self) -> UpstreamConfig:
        if self.command and not self.url:
            raise ValueError("engine.upstream.command needs engine.upstream.url, the address it will listen on")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"engine.upstream.url must begin with http:// or https://, not {self.url!r}")
        return self


class EngineConfig(Config):
    """Which engine, and how much it may use."""

    aliases: ClassVar[dict[str, str]] = {
        "infer_backend": "name",
        "backend": "name",
        "max_num_seqs": "max_running",
        "max_model_len": "context_tokens",
        "vllm_maxlen": "context_tokens",
        "torch_dtype": "dtype",
    }

    name: str = "auto"
    """auto, transformers, llamacpp, openvino, upstream, fake, or one that an installed package registers. auto picks by
    bundle and hardware, and says why."""
    max_running: int = Field(8, ge=1, le=1024)
    """How many requests share a step; more wait."""
    context_tokens: int | None = Field(None, ge=16)
    """The longest prompt and answer together; default: what the model was trained for, at most 4096."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 means all that this process may use."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... (transformers)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the computation (transformers, openvino); in llamacpp a GGUF has its own. openvino's auto rounds
    activations and cache to 8 bits; its float32 is exact and takes about twice the time."""
    merge_adapter: bool = True
    """Fold an adapter into its base in memory (transformers): the same answers, faster."""
    prefix_cache: bool = True
    """Keep computed prompts and reuse them where a later prompt begins the same. In llamacpp this can change a greedy
    answer in its last digits, because a long and a short computation round differently."""
    stream_interval_s: float | None = Field(None, ge=0, le=10)
    """The first token of an answer and its end are handed on at once, the tokens between them at most this often: each time
    costs some work, on a CPU of the engine's own cores. 0 hands on every token by itself. Default: 0.05 where the engine
    computes here, 0 for upstream."""
    stall_timeout_s: float = Field(60.0, gt=0)
    """An engine process that holds requests and emits no token for this long is killed and started again."""
    start_timeout_s: float = Field(900.0, gt=0)
    """How long loading the model and the first token may take."""
    max_memory_bytes: int | None = Field(None, ge=1 << 20)
    """An engine process that, with all its children, holds more memory than this is killed and started again. Pages of
    the model's file that are mapped in are counted."""
    upstream: UpstreamConfig = UpstreamConfig()
    """Only for name: upstream."""
    fake: FakeConfig = FakeConfig()
    """Only for name: fake."""

    DEFAULT_CONTEXT_TOKENS: ClassVar[int] = 4096

    def pace_s(self, engine: str) -> float:
        """``stream_interval_s``, or what is right for the engine of this name."""
        default = 0.0 if engine == "upstream" else DEFAULT_STREAM_INTERVAL_S  # it computes elsewhere
        return default if self.stream_interval_s is None else self.stream_interval_s

    def context_of(self, trained_tokens: int | None) -> int:
        """The context to use for a model that was trained for ``trained_tokens`` (None: unknown)."""
        wanted = self.context_tokens or self.DEFAULT_CONTEXT_TOKENS
        return min(wanted, trained_tokens) if trained_tokens else wanted
