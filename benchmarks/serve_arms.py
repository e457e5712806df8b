"""The servers that benchmarks/serve.py measures: how each one is started, made ready and ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.harness import ENVIRONMENT, ROOT, peer_python, signal_tree

START_S = 300.0
STAND_INS = str(ROOT / "benchmarks" / "serve_stand_ins.py")
RAW = str(ROOT / "benchmarks" / "serve_raw.py")
MAX_RUNNING = 64
CONTEXT, NEW_TOKENS = 512, 64
PROMPTS = (
    "Once upon a time in a small village",
    "The history of the city of London begins",
    "def fibonacci(n):",
    "My card was stolen yesterday and",
    "The weather in London is usually",
    "In the middle of the night, the old man",
    "The most important thing about money is",
    "A bank is a place where",
)
"""Continuations that do not end before 64 tokens."""
LITELLM = ("litellm[proxy]==1.106.2",)
LLAMA_CPP_PYTHON = ("llama-cpp-python[server]",)


class Skipped(Exception):
    """An arm cannot be had here; the words say why."""


class Server:
    """A server in a process group of its own, which is ended with it."""

    def __init__(
        self, command: Sequence[str], port: int, ready: str, log: Path, env: Mapping[str, str], key: str
    ) -> None:
        self.port, self.model, self._log = port, "instant", log
        self.behind: Server | None = None
        """Another one that this one needs."""
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env={**ENVIRONMENT, **env}, cwd=log.parent,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid
        self._wait(ready, key)

    def _wait(self, path: str, key: str) -> None:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {key}"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_S
        while True:
            try:
                with direct.open(asked, timeout=5):
                    return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    said = self._log.read_text(errors="replace")[-2000:]
                    sys.exit(f"error: {self._process.args} did not start ({error})\n{said}")
                time.sleep(0.1)

    def close(self) -> None:
        """Ask it to end, then kill what is left of its group."""
        signal_tree([self.pid], signal.SIGCONT)  # it may be stopped
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        except ProcessLookupError:
            self._process.wait()


class RawEngine:
    """The package itself in a process of its own (serve_raw.py).

    Args:
        name: The package.
        settings: For serve_raw.py.
        log: For what the package says.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, RAW, name, json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=out, env=ENVIRONMENT, text=True,
            )  # fmt: skip
        self.pids = [self._process.pid]
        self._read()

    def measure(self, at_once: int, count: int) -> dict[str, Any]:
        """Ask for a level."""
        assert self._process.stdin is not None
        print(json.dumps([at_once, count]), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not (said := self._process.stdout.readline()):
            sys.exit(f"error: {self._process.args} ended\n{self._log.read_text(errors='replace')[-2000:]}")
        found: dict[str, Any] = json.loads(said)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Place:
    """Where a case works: its folder, one key for all, and what is running; leaving it ends everything.

    Args:
        folder: Empty, removed by whoever made it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gguf = folder / "gguf" / "model.q8_0.gguf"
        self.gguf.parent.mkdir()
        self.home = folder / "home"
        self.tokens: list[int] = []
        self._running: list[Server | RawEngine] = []
        self.upstream = ""
        made = subprocess.run(
            [sys.executable, "-m", "tuneloop", "keys", "create", "bench"], env=self.env, capture_output=True, text=True,
            check=True, cwd=ROOT,
        )  # fmt: skip
        self.key = next(word for word in made.stdout.split() if word.startswith("tl-"))

    @property
    def env(self) -> dict[str, str]:
        return {**ENVIRONMENT, "TUNELOOP_HOME": str(self.home)}

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in reversed(self._running):
            server.close()

    def start(
        self, name: str, command: Sequence[str], port: int, ready: str, env: Mapping[str, str] | None = None
    ) -> Server:
        """Start a server and wait until it answers ``ready`` with 200."""
        server = Server(command, port, ready, self.folder / f"{name}.log", env or {}, self.key)
        self._running.append(server)
        return server

    def raw(self, name: str, settings: Mapping[str, Any]) -> RawEngine:
        """Start a package without a server."""
        engine = RawEngine(name, settings, self.folder / f"{name}.log")
        self._running.append(engine)
        return engine

    def instant(self, text: str) -> None:
        """Start the stand-in that answers with ``text``."""
        from tuneloop.models import load_tokenizer

        tokenizer = load_tokenizer(source())
        self.tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        pieces = [(i, tokenizer.decode([i])) for i in self.tokens]
        assert "".join(piece for _, piece in pieces) == text
        port = free_port()
        settings = json.dumps({"text": text, "tokens": pieces})
        self.direct = self.start(
            "instant", [sys.executable, STAND_INS, "instant", str(port), settings], port, "/v1/models"
        )
        self.upstream = f"http://127.0.0.1:{port}"

    def tuneloop(self, folder: Path, *settings: str) -> Server:
        """Start ``tuneloop serve``."""
        port = free_port()
        words = ["serve", str(folder), f"port={port}", "model_name=instant", *settings]
        home = {"TUNELOOP_HOME": str(self.home)}
        return self.start(f"tuneloop-{port}", [sys.executable, "-m", "tuneloop", *words], port, "/readyz", home)


@cache
def source() -> Path:
    """The real small model's folder."""
    from tuneloop.models import ModelConfig, resolve

    return resolve(ModelConfig(name="smollm2-135m-instruct"))


def make_gguf(file: Path) -> None:
    """Write the model as a Q8_0 GGUF, and beside it what makes its folder one that can be served."""
    from tuneloop.compress import write_gguf
    from tuneloop.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(source())
    write_gguf(load_model(source(), device="cpu"), tokenizer, file, "q8_0", name="smollm2")
    tokenizer.save_pretrained(file.parent)
    shutil.copy(source() / "config.json", file.parent)  # by this the command line knows a model's folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def direct(place: Place) -> Server:
    return place.direct


def fastapi(place: Place) -> Server:
    port = free_port()
    command = [sys.executable, STAND_INS, "passthrough", str(port), place.upstream]
    return place.start("passthrough", command, port, "/v1/models")


def litellm(place: Place) -> Server:
    """https://docs.litellm.ai/docs/proxy/prod: errors only, no verbose output, production mode; nothing is called back."""
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "instant",
                "litellm_params": {"model": "openai/instant", "api_base": f"{place.upstream}/v1", "api_key": "none"},
            }
        ],
        "general_settings": {"master_key": place.key},
        "litellm_settings": {"set_verbose": False, "request_timeout": 60, "num_retries": 0, "telemetry": False},
    }
    file = place.folder / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    python = Path(peer_python("litellm", LITELLM, first=()))
    env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    words = ["--config", str(file), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    return place.start("litellm", [str(python.with_name("litellm")), *words], port, "/health/readiness", env)


def tuneloop_upstream(place: Place) -> Server:
    settings = (f"engine.upstream.url={place.upstream}", f"engine.max_running={MAX_RUNNING}")
    return place.tuneloop(source(), "engine.name=upstream", *settings)


def tuneloop_fake(place: Place) -> Server:
    settings = (f"engine.fake.answer_ids={json.dumps(place.tokens)}", f"engine.max_running={MAX_RUNNING}")
    return place.tuneloop(source(), "engine.name=fake", *settings)


def tuneloop_engine(name: str, *more: str) -> Callable[[Place, int], Server]:
    def start(place: Place, most: int) -> Server:
        settings = (
            f"engine.max_running={most}",
            f"engine.context_tokens={CONTEXT}",
            "engine.prefix_cache=false",
            *more,
        )
        return place.tuneloop(place.gguf.parent, f"engine.name={name}", *settings)

    return start


def raw(name: str) -> Callable[[Place, int], RawEngine]:
    def start(place: Place, most: int) -> RawEngine:
        return place.raw(
            name,
            {"file": str(place.gguf), "prompts": PROMPTS, "new_tokens": NEW_TOKENS, "most": most, "context": CONTEXT},
        )

    return start


def llama_cpp_python(place: Place, most: int) -> Server:
    if not (ROOT / ".venv-llama-cpp-python" / ".installed").exists() and shutil.which("cc") is None:
        raise Skipped("llama-cpp-python has no wheel for this platform and there is no C compiler")
    try:
        python = peer_python("llama-cpp-python", LLAMA_CPP_PYTHON, first=())
    except subprocess.CalledProcessError as error:
        raise Skipped(f"llama-cpp-python cannot be installed: {error.cmd[-1]}") from error
    port = free_port()
    words = ["--model", str(place.gguf), "--n_ctx", str(CONTEXT), "--n_threads", str(cores()), "--n_threads_batch", str(cores()),
             "--host", "127.0.0.1", "--port", str(port), "--model_alias", "instant", "--interrupt_requests", "false"]  # fmt: skip
    return place.start("llama-cpp-python", [python, "-m", "llama_cpp.server", *words], port, "/v1/models")


def transformers_serve(place: Place, most: int) -> Server:
    port = free_port()
    binary = Path(sys.executable).with_name("transformers")
    words = ["serve", str(source()), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "bfloat16",
             "--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "1024"]  # fmt: skip
    server = place.start("transformers", [str(binary), *words], port, "/health", {"HF_HUB_OFFLINE": "1"})
    server.model = str(source())
    return server


def vllm(place: Place, most: int) -> Server:
    command = os.environ.get("TUNELOOP_VLLM")
    if not command:
        raise Skipped("TUNELOOP_VLLM names no vllm command")
    port = free_port()
    words = ["serve", str(source()), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "instant", "--dtype",
             "bfloat16", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(most), "--no-enable-prefix-caching",
             "--enforce-eager"]  # fmt: skip
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
    return place.start("vllm", [command, *words], port, "/health", env)


def tuneloop_vllm(place: Place, most: int) -> Server:
    behind = vllm(place, most)
    settings = (f"engine.upstream.url=http://127.0.0.1:{behind.port}", f"engine.max_running={most}")
    server = place.tuneloop(source(), "engine.name=upstream", *settings)
    server.behind = behind
    return server


def cores() -> int:
    return len(os.sched_getaffinity(0))


@cache
def versions() -> dict[str, str]:
    """Of what is measured, as far as it is installed."""
    from importlib.metadata import version

    ours = {
        name: version(name) for name in ("fastapi", "uvicorn", "httpx", "xllamacpp", "openvino-genai", "transformers")
    }
    for name in ("litellm", "llama-cpp-python"):
        folder = ROOT / f".venv-{name}" / "lib"
        for found in folder.glob(f"python*/site-packages/{name.replace('-', '_')}-*.dist-info"):
            ours[name] = found.name.removesuffix(".dist-info").rpartition("-")[2]
    if command := os.environ.get("TUNELOOP_VLLM"):
        said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        ours["vllm"] = said.stdout.split()[-1]
    return ours


GATEWAYS: dict[str, Callable[[Place], Server]] = {
    "direct": direct,
    "FastAPI + httpx": fastapi,
    "LiteLLM proxy": litellm,
    "Tuneloop, upstream": tuneloop_upstream,
    "Tuneloop, fake": tuneloop_fake,
}
ENGINES: dict[str, Callable[[Place, int], Any]] = {
    "xllamacpp, raw": raw("xllamacpp"),
    "Tuneloop, llamacpp": tuneloop_engine("llamacpp"),
    "OpenVINO GenAI, raw": raw("openvino"),
    "Tuneloop, openvino": tuneloop_engine("openvino"),
    "Tuneloop, openvino float32": tuneloop_engine("openvino", "engine.dtype=float32"),
    "llama-cpp-python": llama_cpp_python,
    "transformers serve": transformers_serve,
    "vLLM": vllm,
    "Tuneloop, upstream vLLM": tuneloop_vllm,
}
