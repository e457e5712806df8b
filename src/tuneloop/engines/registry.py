"""Engines by name: the built-in ones, and those of installed packages (entry points, group ``tuneloop.engines``)."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import shutil
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tuneloop.engines.base import Engine
from tuneloop.engines.config import EngineConfig
from tuneloop.errors import ConfigError
from tuneloop.progress import log

if TYPE_CHECKING:
    from tuneloop.models import Bundle

GROUP = "tuneloop.engines"
Factory = Callable[["Bundle | None", EngineConfig], Engine]
_BUILT_IN = {
    "fake": "tuneloop.engines.fake:FakeEngine",
    "llamacpp": "tuneloop.engines.llamacpp:LlamaCppEngine",
    "openvino": "tuneloop.engines.openvino:OpenVinoEngine",
    "transformers": "tuneloop.engines.transformers_engine:TransformersEngine",
    "upstream": "tuneloop.engines.upstream:UpstreamEngine",
}


def names() -> list[str]:
    """Every engine that ``create`` knows."""
    return sorted({*_BUILT_IN, *_third_party()})


def choose(config: EngineConfig, bundle: Bundle | None) -> tuple[str, str]:
    """The engine to use for a bundle, and why."""
    if config.name != "auto":
        return config.name, "it was asked for"
    if config.upstream.url:
        return "upstream", "engine.upstream.url says where a server is"
    if bundle is None:
        return "fake", "there is no bundle"
    if bundle.kind != "gguf":
        why = f"the bundle is a {bundle.kind}, and it runs every architecture and unmerged adapters"
        return "transformers", why + _with_a_gpu(bundle)
    return _for_gguf(bundle)


def _for_gguf(bundle: Bundle) -> tuple[str, str]:
    """llamacpp where it is installed: it obeys all that a request can ask for but penalties. openvino is the faster one under
    load (``benchmarks/serve.py``) and also lacks logit_bias, alternatives and grammars."""
    from tuneloop.engines.openvino import unreadable

    llamacpp, openvino = (importlib.util.find_spec(name) is not None for name in ("xllamacpp", "openvino_genai"))
    readable = unreadable(bundle) is None
    if llamacpp:
        why = "the bundle is GGUF, and it knows every option of a request but penalties"
        if readable:
            faster = "engine.name: openvino makes two to four times the tokens with many requests at once, also without schemas and biases"
            why += f"; {faster}" + ("" if openvino else " (pip install 'tuneloop[openvino]')")
        return "llamacpp", why
    if openvino and readable:
        return "openvino", "the bundle is GGUF, and xllamacpp is not installed"
    return "transformers", "the bundle is GGUF but xllamacpp is not installed (pip install 'tuneloop[llamacpp]')"


def _with_a_gpu(bundle: Bundle) -> str:
    """What would be best on this machine, when that is another engine than the one that was chosen."""
    if not has_gpu() or bundle.kind != "model" or bundle.virtual_tokens:
        return ""
    if (vllm := shutil.which("vllm")) is None:
        return "; with vLLM installed on this GPU machine, engine.name: upstream would be the fastest"
    return (
        "; vLLM would be faster on this GPU: engine.upstream.url: http://127.0.0.1:8001, "
        f'engine.upstream.command: [{vllm}, serve, "{{path}}", --port, "{{port}}"]'
    )


def has_gpu() -> bool:
    """Whether NVIDIA's driver shows a device (looked up without torch, which takes seconds to import)."""
    return Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None


def create(config: EngineConfig, bundle: Bundle | None) -> Engine:
    """Load a bundle (only the fake engine does without one) into an engine.

    Raises:
        ConfigError: There is no engine of that name.
        ModelError: The bundle cannot be loaded by it.
        MissingExtraError: Its package is not installed.
    """
    name, reason = choose(config, bundle)
    factory = _find(name)
    if config.name == "auto":
        log(f"engine: {name}, because {reason}")
    return factory(bundle, config)


def _find(name: str) -> Factory:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return cast(Factory, getattr(importlib.import_module(module), attribute))
    if name in (found := _third_party()):
        return cast(Factory, found[name].load())
    near = difflib.get_close_matches(name, names(), 1)
    known = f"known: {', '.join(names())}; vLLM, SGLang, llama-server and other servers are asked by upstream"
    raise ConfigError(f"there is no engine {name!r}", hint=f"did you mean {near[0]!r}?" if near else known)


def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
