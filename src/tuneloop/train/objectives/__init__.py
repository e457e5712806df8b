"""The seam ``Objective``: (model, rows) -> loss. One loop serves all of them.

flat.py    supervised fine-tuning on a flat row (the fast form)
plain.py   the same, padded, with all logits (the oracle)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import ATTENTION, causal_model, register
from tuneloop.train import checkpointing, kernels
from tuneloop.train.allocator import keep_freed_memory
from tuneloop.train.config import TrainConfig
from tuneloop.train.objectives.flat import FlatSft
from tuneloop.train.objectives.plain import PlainSft
from tuneloop.types import Example

__all__ = ["FlatSft", "Objective", "PlainSft", "create", "sft", "total_weight"]


class Objective(Protocol):
    """What is minimised."""

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        """Weighted sum of token losses (not a mean): the loop divides by the weight of the whole step."""


def total_weight(examples: Sequence[Example]) -> float:
    """What the summed loss of these rows is divided by: label tokens times row weight."""
    return sum(e.weight * e.label_tokens for e in examples)


def create(model: nn.Module, config: TrainConfig) -> Objective:
    """The objective that a configuration asks for.

    Raises:
        ConfigError: ``compile: on``.
        ModelError: The model cannot be computed the way the configuration asks for.
    """
    memory = config.memory
    if memory.compile == "on":
        raise ConfigError(
            "torch.compile cannot follow the attention of a flat row",
            where="train.memory.compile",
            hint="leave it at auto",
        )
    return sft(
        model,
        padding_free=memory.padding_free,
        share_prefixes=memory.share_prefixes,
        label_smoothing=config.label_smoothing,
        recompute=checkpointing.planned(model, memory) if memory.padding_free else None,
    )


def sft(
    model: nn.Module,
    *,
    padding_free: bool,
    share_prefixes: bool,
    label_smoothing: float,
    recompute: checkpointing.Recompute | None = None,
) -> Objective:
    """The objective of supervised fine-tuning, with the model's attention set to match.

    Raises:
        ModelError: The model changes its logits after the output head, which the flat form does not know.
    """
    inner: Any = causal_model(model)
    checkpointing.stop(model)
    if not padding_free:
        kernels.remove(model)
        inner.set_attn_implementation("sdpa")
        return PlainSft(label_smoothing=label_smoothing)
    text = inner.config.get_text_config()
    odd = [n for n in ("final_logit_softcapping", "logits_scaling", "logit_scale") if getattr(text, n, None)]
    if odd:
        raise ModelError(
            f"{type(inner).__name__} changes its logits ({odd[0]})", hint="set train.padding_free=false for this model"
        )
    register()
    inner.set_attn_implementation(ATTENTION)
    kernels.apply(model)
    keep_freed_memory()
    return FlatSft(share_prefixes=share_prefixes, label_smoothing=label_smoothing, recompute=recompute)
