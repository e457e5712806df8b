"""The seam ``Objective``: (model, rows) -> loss. One loop serves all of them.

``flat_sft`` is the fast form; ``plain_sft`` is the textbook form that it must equal (tests/invariants).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tuneloop.errors import ModelError
from tuneloop.models import ATTENTION, causal_model, hidden_states, register
from tuneloop.train.batch import Batch, collate
from tuneloop.types import Example

CHUNK = 1024
"""Predictions whose logits are alive at once: 1024 x 129,280 (DeepSeek-V3's vocabulary) in fp32 is 0.5 GB."""


class Objective(Protocol):
    """What is minimised."""

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        """Weighted sum of token losses (not a mean): the loop divides by the weight of the whole step."""


def total_weight(examples: Sequence[Example]) -> float:
    """What the summed loss of these rows is divided by: label tokens times row weight."""
    return sum(e.weight * e.label_tokens for e in examples)


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


class PlainSft:
    """The same loss as every textbook writes it: right-padded rows, an attention mask, all logits. Slow; the oracle."""

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        device = next(model.parameters()).device
        longest = max(len(e.input_ids) for e in examples)
        ids_BT = torch.zeros(len(examples), longest, dtype=torch.int64)
        real_BT = torch.zeros(len(examples), longest, dtype=torch.int64)
        labels_BT = torch.full((len(examples), longest), -100)
        for b, example in enumerate(examples):
            n = len(example.input_ids)
            ids_BT[b, :n] = torch.tensor(example.input_ids)
            real_BT[b, :n] = 1
            labels_BT[b, :n] = torch.where(torch.tensor(example.loss_mask), ids_BT[b, :n], -100)
        logits_BTV = model(input_ids=ids_BT.to(device), attention_mask=real_BT.to(device), use_cache=False).logits
        # Flattened to (B T) x V: over a strided class dimension torch's float32 sum is only good to 3e-5.
        loss_BT = cross_entropy(
            logits_BTV[:, :-1].float().flatten(0, 1),
            labels_BT[:, 1:].to(device).flatten(),
            reduction="none",
            ignore_index=-100,
            label_smoothing=self.label_smoothing,
        ).view(len(examples), -1)
        weight_B1 = torch.tensor([[e.weight] for e in examples], device=device)
        return (loss_BT * weight_B1).sum()


def sft(model: nn.Module, *, padding_free: bool, share_prefixes: bool, label_smoothing: float) -> Objective:
    """The objective of supervised fine-tuning, with the model's attention set to match.

    Raises:
        ModelError: The model changes its logits after the output head, which the flat form does not know.
    """
    inner: Any = causal_model(model)
    if not padding_free:
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
    return FlatSft(share_prefixes=share_prefixes, label_smoothing=label_smoothing)
