"""Training a part of the model: its last layers, named modules, its head. What is frozen needs neither gradients nor
optimizer moments, and below the lowest trained layer no backward pass."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ConfigError
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig
from tuneloop.train.methods.decoder import last_norm
from tuneloop.train.methods.targets import last_layers
from tuneloop.train.methods.whole import is_router
from tuneloop.train.sections import FreezeConfig

if TYPE_CHECKING:
    from torch import nn


def freeze(model: nn.Module, config: TrainConfig) -> nn.Module:
    """The last layers, named modules and the head train; the rest is frozen, and so is every router of a mixture.

    Raises:
        ConfigError: More layers than there are, a module that matches nothing, or nothing that would train.
        ModelError: An architecture without a list of layers or a last norm.
    """
    settings = config.freeze
    chosen = {id(p) for p in (*_last_layers(model, settings), *_named(model, settings), *_head(model, settings))}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) in chosen and not is_router(name))
    _say_share(model, settings)
    return model


def is_tied(model: nn.Module) -> bool:
    """Whether the output head and the embedding are one matrix."""
    head: Any = model
    return bool(head.get_output_embeddings().weight is head.get_input_embeddings().weight)


def _last_layers(model: nn.Module, settings: FreezeConfig) -> list[nn.Parameter]:
    layers = last_layers(model, settings.last_layers, "train.freeze.last_layers", "for all weights: method: full")
    return [p for layer in layers for p in layer.parameters()]


def _named(model: nn.Module, settings: FreezeConfig) -> list[nn.Parameter]:
    """Parameters whose dotted name holds one of the wanted parts, whole words only."""
    every = list(model.named_parameters(remove_duplicate=False))  # a tied head has two names
    found = []
    for part in settings.modules:
        matching = [p for name, p in every if f".{part}." in f".{name}."]
        if not matching:
            words = sorted({word for name, _ in every for word in name.split(".") if not word.isdigit()})
            near = difflib.get_close_matches(part.rpartition(".")[2], words, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{part!r} matches no parameter",
                where="train.freeze.modules",
                hint=f"{hint}this model has: {', '.join(words)}",
            )
        found += matching
    return found


def _head(model: nn.Module, settings: FreezeConfig) -> list[nn.Parameter]:
    if not settings.head:
        return []
    inner: Any = model
    norm = list(last_norm(model).parameters())
    if is_tied(model):
        return norm  # the embedding below everything would train with it
    return [*norm, *inner.get_output_embeddings().parameters()]


def _say_share(model: nn.Module, settings: FreezeConfig) -> None:
    total = sum(p.numel() for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    advice = "set train.freeze.last_layers=2, or name what should train in train.freeze.modules"
    if not trained:
        raise ConfigError("nothing would train", where="train.freeze", hint=advice)
    count = sum(p.numel() for p in trained)
    log(f"  {count:,} of {total:,} weights train ({100 * count / total:.2g} %)")
    if settings.head and is_tied(model) and {id(p) for p in trained} <= {id(p) for p in last_norm(model).parameters()}:
        log(
            "  note: this model's head is its embedding and stays frozen, so nothing but the last norm trains; "
            "name lm_head in train.freeze.modules, or set train.freeze.last_layers"
        )
