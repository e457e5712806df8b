"""A name -> model and tokenizer; adapters; the bundle, a model folder that describes itself.

path = resolve(ModelConfig(name="smollm2-135m-instruct"))
model, tokenizer = load_model(path), load_tokenizer(path)
bundle = save_model_bundle(folder, model, tokenizer, facts={"data_sha256": ...})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tuneloop.models.adapters import add_adapter, merge_adapter
from tuneloop.models.available import available_bytes, peak_bytes, resident_bytes
from tuneloop.models.bundle import (
    Bundle,
    open_bundle,
    save_adapter_bundle,
    save_model_bundle,
    seal,
    verify,
)
from tuneloop.models.catalogue import CATALOGUE, Dimensions, Entry, find, looks_local
from tuneloop.models.fetch import ModelConfig, resolve
from tuneloop.models.folder import MANIFEST, fingerprint, staging
from tuneloop.models.load import load_model, load_tokenizer, quiet
from tuneloop.models.memory import (
    RUNTIME_BYTES,
    MemoryEstimate,
    dimensions_of,
    estimate_inference_memory,
    estimate_memory,
    layer_activations,
    training_memory,
)
from tuneloop.models.merge import Merged, MergeParity, merge_bundle
from tuneloop.store import is_offline

if TYPE_CHECKING:
    from tuneloop.models.flat import (
        ATTENTION,
        Forest,
        Layout,
        Node,
        backbone,
        causal_model,
        hidden_states,
        layout,
        register,
    )
    from tuneloop.models.form import beyond_flat, use_flat, use_own, window_tokens
    from tuneloop.models.virtual import root_keys_values

_NEEDS_TORCH = {
    "flat": (
        "ATTENTION",
        "Forest",
        "Layout",
        "Node",
        "backbone",
        "causal_model",
        "hidden_states",
        "layout",
        "register",
    ),
    "form": ("beyond_flat", "use_flat", "use_own", "window_tokens"),
    "virtual": ("root_keys_values",),
}
"""File -> names."""

__all__ = [
    "ATTENTION",
    "CATALOGUE",
    "MANIFEST",
    "RUNTIME_BYTES",
    "Bundle",
    "Dimensions",
    "Entry",
    "Forest",
    "Layout",
    "MemoryEstimate",
    "MergeParity",
    "Merged",
    "ModelConfig",
    "Node",
    "add_adapter",
    "available_bytes",
    "backbone",
    "beyond_flat",
    "causal_model",
    "dimensions_of",
    "estimate_inference_memory",
    "estimate_memory",
    "find",
    "fingerprint",
    "hidden_states",
    "is_offline",
    "layer_activations",
    "layout",
    "load_model",
    "load_tokenizer",
    "looks_local",
    "merge_adapter",
    "merge_bundle",
    "open_bundle",
    "peak_bytes",
    "quiet",
    "register",
    "resident_bytes",
    "resolve",
    "root_keys_values",
    "save_adapter_bundle",
    "save_model_bundle",
    "seal",
    "staging",
    "training_memory",
    "use_flat",
    "use_own",
    "verify",
    "window_tokens",
]


def __getattr__(name: str) -> Any:
    """Names that need torch load it on first use: the door stays light."""
    for module, names in _NEEDS_TORCH.items():
        if name in names:
            return getattr(importlib.import_module(f"tuneloop.models.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
