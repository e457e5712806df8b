"""The parts of a decoder by what they are: architectures call them ``layers``, ``h``, ``blocks``; ``norm``, ``ln_f``."""

from __future__ import annotations

from typing import Any

from torch import nn

from tuneloop.errors import ModelError
from tuneloop.models import backbone, causal_model

_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "ln_out", "embedding_norm")


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of the decoder, first to last.

    Raises:
        ModelError: There is no list of them.
    """
    return list(_list_of(model)[1])


def last_norm(model: nn.Module) -> nn.Module:
    """The norm after the last layer.

    Raises:
        ModelError: There is none of a known name.
    """
    parent, _ = _list_of(model)
    for name, child in parent.named_children():
        if name in _NORMS:
            return child
    raise ModelError(
        f"{type(causal_model(model)).__name__} has no norm of a known name after its last layer",
        where="train.freeze.head",
        hint="set train.freeze.head=false and name what trains in train.freeze.modules",
    )


def _list_of(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that holds the list of layers, and the list: the outermost of the length that the configuration says."""
    inner: Any = causal_model(model)
    count = inner.config.get_text_config().num_hidden_layers
    for parent in backbone(model).modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return parent, child
    raise ModelError(
        f"{type(inner).__name__} has no list of its {count} layers",
        where="train.method",
        hint="use method: lora or full",
    )
