"""The seam ``Method``: model -> which parameters train.

whole.py   full: the model's own weights
freeze.py  a part of them (border.py: what the frozen layers give is computed once)
select.py  the layers that matter, chosen again and again
lora.py    adapters: lora, rslora, dora, lora+, qlora
targets.py which layers take them
decoder.py a decoder's layers and last norm, whatever their names
prefix.py  virtual tokens in front of every row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tuneloop.models import merge_adapter
from tuneloop.train.companions import Companion
from tuneloop.train.config import LORA_FAMILY, TrainConfig
from tuneloop.train.methods.freeze import freeze
from tuneloop.train.methods.lora import four_bit, lora, plus_scale
from tuneloop.train.methods.prefix import prefix, prompt
from tuneloop.train.methods.select import Selection, select
from tuneloop.train.methods.targets import linear_layers
from tuneloop.train.methods.whole import full

if TYPE_CHECKING:
    from torch import nn

    from tuneloop.types import Example

__all__ = ["METHODS", "Method", "companions_of", "four_bit", "learning_rate_scale", "linear_layers", "merge", "prepare"]


class Method(Protocol):
    """Chooses what trains."""

    def __call__(self, model: nn.Module, config: TrainConfig) -> nn.Module:
        """The model to train, with ``requires_grad`` set on every parameter."""


METHODS: dict[str, Method] = {
    "full": full,
    "freeze": freeze,
    "select": select,
    **dict.fromkeys(LORA_FAMILY, lora),
    "prefix": prefix,
    "prompt": prompt,
}


def learning_rate_scale(parameter: str, config: TrainConfig) -> float:
    """What a parameter's learning rate is multiplied by: 1, except where a method says otherwise."""
    return plus_scale(parameter, config)


def prepare(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Set up what trains.

    Raises:
        ConfigError: The method does not fit the model or this machine.
    """
    return METHODS[config.method](model, config)


def companions_of(
    model: nn.Module, objective: Any, examples: Sequence[Example], config: TrainConfig
) -> list[Companion]:
    """What a method needs beside the loop."""
    return [Selection(model, objective, examples, config)] if config.method == "select" else []


def merge(model: nn.Module) -> nn.Module:
    """A prepared model as an ordinary one: adapters become part of the weights, summed in float32 and rounded once.

    Raises:
        ModelError: The base is in 4 bits, or the adapter is not finite.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    merged: nn.Module = merge_adapter(model)
    return merged
