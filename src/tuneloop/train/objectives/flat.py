"""Next-token cross-entropy on a flat row: the fast form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tuneloop.models import causal_model, hidden_states
from tuneloop.train.batch import ROUND, Batch, collate
from tuneloop.train.checkpointing import Recompute
from tuneloop.train.kernels import narrows, onednn_is_faster, usual
from tuneloop.train.objectives.head import CHUNK, HeadLoss
from tuneloop.types import Example


class FlatSft:
    """Next-token cross-entropy on a flat row: no padding, logits only where there is a label."""

    def __init__(
        self, *, share_prefixes: bool = True, label_smoothing: float = 0.0, recompute: Recompute | None = None
    ) -> None:
        self.share_prefixes, self.label_smoothing, self.recompute = share_prefixes, label_smoothing, recompute

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        weight = next(model.parameters())
        multiple = ROUND if weight.device.type == "cpu" and onednn_is_faster() else 1
        batch = collate(examples, share_prefixes=self.share_prefixes, multiple=multiple)
        return self.loss(model, batch.to(weight.device, weight.dtype))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens, predictions = batch.input_ids_1T.shape[1], len(batch.source_N)
        if self.recompute is not None and model.training:
            self.recompute.arrange(model, tokens)
        if narrows(model) and 2 * predictions <= tokens:
            plan = replace(batch.layout, rows_N=batch.source_N)
            hidden_NC = hidden_states(model, batch.input_ids_1T, plan)[0]
        else:
            hidden_NC = hidden_states(model, batch.input_ids_1T, batch.layout)[0].index_select(0, batch.source_N)
        head: Any = causal_model(model)
        lm_head = head.lm_head
        if type(lm_head) is nn.Linear and lm_head.bias is None and usual(hidden_NC, lm_head.weight):
            smoothing, learns = self.label_smoothing, torch.is_grad_enabled()
            wanted = batch.target_N, batch.weight_N, smoothing, learns
            return HeadLoss.apply(hidden_NC, lm_head.weight, *wanted)
        return self._autograd(lm_head, hidden_NC, batch)

    def _autograd(self, lm_head: nn.Module, hidden_NC: Tensor, batch: Batch) -> Tensor:
        """The same for a head that is more than a matrix (an adapter, a bias, sharded weights)."""
        total = hidden_NC.new_zeros((), dtype=torch.float32)
        for at in range(0, len(hidden_NC), CHUNK):
            part = slice(at, at + CHUNK)
            rows = lm_head, hidden_NC[part], batch.target_N[part], batch.weight_N[part]
            if len(hidden_NC) <= CHUNK:
                return self._chunk(*rows)
            total = total + checkpoint(self._chunk, *rows, use_reentrant=False)
        return total

    def _chunk(self, lm_head: nn.Module, hidden_NC: Tensor, target_N: Tensor, weight_N: Tensor) -> Tensor:
        logits_NV = lm_head(hidden_NC).float()
        loss_N = cross_entropy(logits_NV, target_N, reduction="none", label_smoothing=self.label_smoothing)
        return (loss_N * weight_N).sum()
