"""Engines by name: the built-in ones, and those of installed packages (entry points, group ``tuneloop.engines``)."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
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
    if bundle is None:
        return "fake", "there is no bundle"
    if bundle.kind != "gguf":
        return "transformers", f"the bundle is a {bundle.kind}, and it runs every architecture and unmerged adapters"
    if importlib.util.find_spec("xllamacpp") is None:
        return "transformers", "the bundle is GGUF but xllamacpp is not installed (pip install 'tuneloop[llamacpp]')"
    return "llamacpp", "the bundle is GGUF"


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
    raise ConfigError(
        f"there is no engine {name!r}", hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
    )


def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
