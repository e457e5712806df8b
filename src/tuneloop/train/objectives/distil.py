"""Distillation: the student learns a teacher's distribution at every label position, mixed with the labels.

loss = alpha T^2 D(teacher, student) + (1 - alpha) cross-entropy       (see divergence.py for D)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tuneloop.models import causal_model, hidden_states
from tuneloop.train.batch import collate
from tuneloop.train.checkpointing import Recompute
from tuneloop.train.objectives.divergence import divergence
from tuneloop.train.objectives.plain import label_logits
from tuneloop.train.objectives.teacher import Teacher
from tuneloop.train.sections import DistilConfig
from tuneloop.types import Example

CHUNK = 256
"""Predictions whose logits are alive at once: the student's, the teacher's and what stands between them are about six
matrices of 256 x 129,280 (DeepSeek-V3's vocabulary) in fp32, 0.8 GB."""


class FlatDistil:
    """Distillation on a flat row: both models see the same row; logits only where there is a label, in chunks.

    Args:
        teacher: What is known of the teacher.
        config: Divergence, temperature, alpha.
        share_prefixes: See ``batch.collate``.
        label_smoothing: Of the cross-entropy.
        recompute: Which layers compute their activations again.
    """

    def __init__(
        self,
        teacher: Teacher,
        config: DistilConfig,
        *,
        share_prefixes: bool = True,
        label_smoothing: float = 0.0,
        recompute: Recompute | None = None,
    ) -> None:
        self.teacher, self.config, self.recompute = teacher, config, recompute
        self.share_prefixes, self.label_smoothing = share_prefixes, label_smoothing

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        weight = next(model.parameters())
        batch = collate(examples, share_prefixes=self.share_prefixes).to(weight.device, weight.dtype)
        known = self.teacher.known(examples, batch)
        if self.recompute is not None and model.training:
            self.recompute.arrange(model, batch.input_ids_1T.shape[1])
        hidden_NC = hidden_states(model, batch.input_ids_1T, batch.layout)[0].index_select(0, batch.source_N)
        head: Any = causal_model(model)
        if len(hidden_NC) <= CHUNK:
            return self._chunk(head.lm_head, hidden_NC, batch.target_N, batch.weight_N, *known)
        total = hidden_NC.new_zeros((), dtype=torch.float32)
        for at in range(0, len(hidden_NC), CHUNK):
            part = slice(at, at + CHUNK)
            total = total + checkpoint(
                self._chunk,
                head.lm_head,
                hidden_NC[part],
                batch.target_N[part],
                batch.weight_N[part],
                *(x[part] for x in known),
                use_reentrant=False,
            )
        return total

    def _chunk(
        self, lm_head: nn.Module, hidden_NC: Tensor, target_N: Tensor, weight_N: Tensor, *known: Tensor
    ) -> Tensor:
        logits_NV = lm_head(hidden_NC).float()
        return (mixed(self, logits_NV, target_N, known) * weight_N).sum()


class PlainDistil:
    """The same from padded rows and all logits of both models. Slow; the oracle. Its teacher must be padded as well."""

    def __init__(self, teacher: Teacher, config: DistilConfig, *, label_smoothing: float = 0.0) -> None:
        self.teacher, self.config, self.label_smoothing = teacher, config, label_smoothing

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        logits_NV, target_N, weight_N = label_logits(model, examples)
        known = self.teacher.known(examples, None)
        return (mixed(self, logits_NV.float(), target_N, known) * weight_N).sum()


def mixed(of: FlatDistil | PlainDistil, logits_NV: Tensor, target_N: Tensor, known: Sequence[Tensor]) -> Tensor:
    """The loss of N predictions, in nats."""
    labels_N = cross_entropy(logits_NV, target_N, reduction="none", label_smoothing=of.label_smoothing)
    teacher_NE, student_NE = of.teacher.pair(logits_NV, known)
    alpha = of.config.alpha
    return alpha * divergence(teacher_NE, student_NE, of.config) + (1 - alpha) * labels_N
