"""Activation checkpointing by budget (Chen et al., 2016, arXiv:1604.06174): a layer is computed again in the backward
pass only where what it would keep does not fit. The recomputed numbers are the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from tuneloop.errors import ModelError
from tuneloop.models import RUNTIME_BYTES, available_bytes, causal_model, dimensions_of, layer_activations
from tuneloop.train.sections import MemoryConfig

OPTIMIZER_BYTES = 12
"""A trained weight's gradient and two moments of AdamW, float32."""


@dataclass(frozen=True, slots=True)
class Recompute:
    """How many layers recompute for a pass of so many tokens.

    ``token_bytes`` is what one token keeps in one layer, ``input_bytes`` what it keeps of a layer that recomputes,
    ``budget_bytes`` what all layers may keep together (None: every layer recomputes).
    """

    token_bytes: int
    input_bytes: int
    budget_bytes: int | None

    def layers(self, tokens: int, count: int) -> int:
        """The fewest of ``count`` layers with which ``tokens`` tokens fit; all when that is not enough either."""
        if self.budget_bytes is None:
            return count
        for recomputed in range(count):
            kept = (count - recomputed) * self.token_bytes + recomputed * self.input_bytes
            if tokens * (kept + (self.token_bytes if recomputed else 0)) <= self.budget_bytes:
                return recomputed
        return count

    def arrange(self, model: nn.Module, tokens: int) -> int:
        """Set the decoder's layers up for a pass of so many tokens; returns how many recompute."""
        found = _layers(model)
        number = self.layers(tokens, len(found))
        for i, layer in enumerate(found):
            # The last layers keep theirs: their backward pass comes first, and then the memory is free again.
            layer.gradient_checkpointing = i < number
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        return number


def planned(model: nn.Module, config: MemoryConfig) -> Recompute | None:
    """What a configuration asks for; None: no layer recomputes.

    Raises:
        ModelError: ``checkpointing: on``, or a budget, for layers of a kind that cannot recompute.
    """
    if config.checkpointing == "off":
        return None
    asked = config.checkpointing == "on" or config.budget_gb is not None
    try:
        if not _layers(model):
            raise ModelError(
                f"the layers of {type(causal_model(model)).__name__} cannot recompute their activations",
                hint="set train.memory.checkpointing=off and train.memory.max_tokens_per_pass",
            )
        inner: Any = causal_model(model)
        sizes = dimensions_of(inner.config.get_text_config().to_dict())
    except ModelError:
        if asked:
            raise
        return None
    weight = next(model.parameters())
    number = weight.element_size()
    per_token, per_input = layer_activations(sizes) * number, sizes.hidden * number
    if config.checkpointing == "on":
        return Recompute(per_token, per_input, None)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = OPTIMIZER_BYTES * trained
    if config.budget_gb is None:
        free = available_bytes(str(weight.device))
        return None if free is None else Recompute(per_token, per_input, max(0, free - held))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    budget = int(config.budget_gb * 1e9) - weights - held - RUNTIME_BYTES
    return Recompute(per_token, per_input, max(0, budget))


def stop(model: nn.Module) -> None:
    """No layer recomputes any more."""
    for layer in _layers(model):
        layer.gradient_checkpointing = False


def _layers(model: nn.Module) -> list[Any]:
    """The decoder's layers, if they are of transformers' kind that can recompute."""
    inner: Any = causal_model(model)
    layers = list(getattr(inner.get_decoder(), "layers", ()))
    return layers if all(hasattr(type(layer), "gradient_checkpointing") for layer in layers) else []
