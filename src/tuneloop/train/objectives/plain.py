"""The same loss as every textbook writes it: the oracle that the fast form must equal (tests/invariants)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuneloop.types import Example


class PlainSft:
    """The same loss as every textbook writes it: right-padded rows, an attention mask, all logits. Slow; the oracle."""

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        logits_BTV, labels_BT = padded(model, examples)
        # Flattened to (B T) x V: over a strided class dimension torch's float32 sum is only good to 3e-5.
        loss_BT = cross_entropy(
            logits_BTV[:, :-1].float().flatten(0, 1),
            labels_BT[:, 1:].flatten(),
            reduction="none",
            ignore_index=-100,
            label_smoothing=self.label_smoothing,
        ).view(len(examples), -1)
        weight_B1 = torch.tensor([[e.weight] for e in examples], device=loss_BT.device)
        return (loss_BT * weight_B1).sum()


def padded(model: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """All logits (B x T x V) of right-padded rows, and the labels (B x T, int64; -100 where there is none)."""
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
    # prompt tuning: the virtual tokens in front predict nothing
    return logits_BTV[:, -longest:], labels_BT.to(device)


def label_logits(model: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N x V), target and weight of the N predictions of padded rows, in the order of ``batch.collate``."""
    logits_BTV, labels_BT = padded(model, examples)
    there_BT = labels_BT[:, 1:] != -100
    weight_B1 = torch.tensor([[e.weight] for e in examples], device=labels_BT.device)
    return logits_BTV[:, :-1][there_BT], labels_BT[:, 1:][there_BT], weight_B1.expand_as(there_BT)[there_BT]
