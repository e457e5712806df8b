"""The seam ``Method``: model -> which parameters train.

whole.py   full: the model's own weights
freeze.py  a part of them (border.py: what the frozen layers give is computed once)
select.py  the layers that matter, chosen again and again
lora.py    adapters
prefix.py  virtual tokens in front of every row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tuneloop.train.companions import Companion
from tuneloop.train.config import TrainConfig
from tuneloop.train.methods.freeze import freeze
from tuneloop.train.methods.lora import linear_layers, lora
from tuneloop.train.methods.prefix import prefix, prompt
from tuneloop.train.methods.select import Selection, select
from tuneloop.train.methods.whole import full

if TYPE_CHECKING:
    from torch import nn

    from tuneloop.types import Example

__all__ = ["METHODS", "Method", "companions_of", "learning_rate_scale", "linear_layers", "merge", "prepare"]


class Method(Protocol):
    """Chooses what trains."""

    def __call__(self, model: nn.Module, config: TrainConfig) -> nn.Module:
        """The model to train, with ``requires_grad`` set on every parameter."""


METHODS: dict[str, Method] = {
    "full": full,
    "freeze": freeze,
    "select": select,
    "lora": lora,
    "prefix": prefix,
    "prompt": prompt,
}


def learning_rate_scale(parameter: str, config: TrainConfig) -> float:
    """What a parameter's learning rate is multiplied by: 1, except where a method says otherwise."""
    return 1.0


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
    """A prepared model as an ordinary one: adapters become part of the weights (in their dtype or better)."""
    peft: Any = model
    if not hasattr(peft, "merge_and_unload"):
        return model
    merged: nn.Module = peft.merge_and_unload()
    return merged
