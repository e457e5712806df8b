"""Next-token cross-entropy on a flat row: the fast form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tuneloop.models import causal_model, hidden_states
from tuneloop.train.batch import Batch, collate
from tuneloop.types import Example

CHUNK = 1024
"""Predictions whose logits are alive at once: 1024 x 129,280 (DeepSeek-V3's vocabulary) in fp32 is 0.5 GB."""


class FlatSft:
    """Next-token cross-entropy on a flat row: no padding, logits only where there is a label."""

    def __init__(self, *, share_prefixes: bool = True, label_smoothing: float = 0.0) -> None:
        self.share_prefixes, self.label_smoothing = share_prefixes, label_smoothing

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        weight = next(model.parameters())
        batch = collate(examples, share_prefixes=self.share_prefixes).to(weight.device, weight.dtype)
        return self.loss(model, batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        hidden_TC = hidden_states(model, batch.input_ids_1T, batch.layout)[0]
        head: Any = causal_model(model)
        hidden_NC = hidden_TC.index_select(0, batch.source_N)
        if len(hidden_NC) <= CHUNK:
            return self._chunk(head.lm_head, hidden_NC, batch.target_N, batch.weight_N)
        total = hidden_NC.new_zeros((), dtype=torch.float32)
        for at in range(0, len(hidden_NC), CHUNK):
            part = slice(at, at + CHUNK)
            total = total + checkpoint(
                self._chunk,
                head.lm_head,
                hidden_NC[part],
                batch.target_N[part],
                batch.weight_N[part],
                use_reentrant=False,
            )
        return total

    def _chunk(self, lm_head: nn.Module, hidden_NC: Tensor, target_N: Tensor, weight_N: Tensor) -> Tensor:
        logits_NV = lm_head(hidden_NC).float()
        loss_N = cross_entropy(logits_NV, target_N, reduction="none", label_smoothing=self.label_smoothing)
        return (loss_N * weight_N).sum()
