"""The seam ``Objective``: (model, rows) -> loss. One loop serves all of them.

flat.py         next-token cross-entropy on a flat row (the fast form); sft and pretrain differ in their rows only
plain.py        the same, padded, with all logits (the oracle)
distil.py       a teacher's distribution mixed with the labels, flat and plain
divergence.py   KL both ways, JSD, top k
teacher.py      what is known of a teacher; cached.py: its best tokens, kept on the disk
noise.py        NEFTune
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from tuneloop.errors import ModelError
from tuneloop.progress import log
from tuneloop.train import checkpointing, kernels
from tuneloop.train.allocator import keep_freed_memory
from tuneloop.train.config import TrainConfig
from tuneloop.train.objectives.distil import FlatDistil, PlainDistil
from tuneloop.train.objectives.flat import FlatSft
from tuneloop.train.objectives.noise import Noisy
from tuneloop.train.objectives.plain import PlainSft
from tuneloop.train.objectives.teacher import Teacher, arrange
from tuneloop.train.sections import DistilConfig
from tuneloop.types import Example

__all__ = [
    "FlatDistil",
    "FlatSft",
    "Noisy",
    "Objective",
    "PlainDistil",
    "PlainSft",
    "Teacher",
    "create",
    "distillation",
    "sft",
    "total_weight",
]


class Objective(Protocol):
    """What is minimised."""

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        """Weighted sum of token losses (not a mean): the loop divides by the weight of the whole step."""


def total_weight(examples: Sequence[Example]) -> float:
    """What the summed loss of these rows is divided by: label tokens times row weight."""
    return sum(e.weight * e.label_tokens for e in examples)


def create(model: nn.Module, config: TrainConfig, teacher: Teacher | None = None) -> Objective:
    """The objective that a configuration asks for.

    Args:
        model: The prepared model; its attention is set to match.
        config: Which objective, and how it is computed.
        teacher: For ``objective: distil``.

    Raises:
        ModelError: The model cannot be computed the way the configuration asks for, or there is no teacher.
    """
    noise, how = config.optimizer.neftune_alpha, config.memory
    if noise and how.padding_free and how.share_prefixes:
        log("  NEFTune gives every row noise of its own: beginnings are not shared")
    options: dict[str, Any] = {
        "padding_free": how.padding_free,
        "share_prefixes": how.share_prefixes and not noise,
        "label_smoothing": config.label_smoothing,
        "recompute": checkpointing.planned(model, how) if how.padding_free else None,
    }
    if config.distil is None:
        made = sft(model, **options)
    elif teacher is None:
        raise ModelError("there is no teacher to learn from", hint="give train.run the folder of the teacher")
    else:
        made = distillation(model, teacher, config.distil, **options)
    return Noisy(made, noise) if noise else made


def sft(
    model: nn.Module,
    *,
    padding_free: bool,
    share_prefixes: bool,
    label_smoothing: float,
    recompute: checkpointing.Recompute | None = None,
) -> Objective:
    """Cross-entropy of the next token, with the model's attention set to match.

    Raises:
        ModelError: The model does what the flat form does not know.
    """
    _arrange(model, padding_free)
    if not padding_free:
        return PlainSft(label_smoothing=label_smoothing)
    return FlatSft(share_prefixes=share_prefixes, label_smoothing=label_smoothing, recompute=recompute)


def distillation(
    model: nn.Module,
    teacher: Teacher,
    config: DistilConfig,
    *,
    padding_free: bool,
    share_prefixes: bool,
    label_smoothing: float,
    recompute: checkpointing.Recompute | None = None,
) -> Objective:
    """Distance to a teacher mixed with the labels; teacher and student are both flat or both padded.

    Raises:
        ModelError: See ``sft``.
    """
    _arrange(model, padding_free)
    if not padding_free:
        return PlainDistil(teacher, config, label_smoothing=label_smoothing)
    return FlatDistil(
        teacher, config, share_prefixes=share_prefixes, label_smoothing=label_smoothing, recompute=recompute
    )


def _arrange(model: nn.Module, padding_free: bool) -> None:
    """Attention and layers for the flat form, or as they are written for the padded one."""
    arrange(model, padding_free)
    checkpointing.stop(model)
    if padding_free:
        kernels.apply(model)
        keep_freed_memory()
    else:
        kernels.remove(model)
