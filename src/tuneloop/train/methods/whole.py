"""Methods that train the model's own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuneloop.train.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn


def full(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Every parameter trains, except the router of a mixture of experts: a moving router forgets its balance."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_router(name))
    return model


def is_router(name: str) -> bool:
    """Whether a parameter decides which experts a token goes to."""
    return name.endswith((".mlp.gate.weight", ".mlp.gate.e_score_correction_bias", ".router.weight"))
