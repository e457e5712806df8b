"""Examples -> one flat row in which shared beginnings stand once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tuneloop.models import Forest, Layout, layout
from tuneloop.types import Example

ROUND = 16
"""Rows are filled up to a multiple of this where oneDNN computes: it makes a program for every new shape (2 ms each)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A flat row of T tokens and the N predictions to learn.

    ``source_N`` (int64) is where in the row a prediction is made, ``target_N`` (int64) the token to predict, ``weight_N`` (float32)
    its weight. One position may predict several tokens: rows that share a beginning may part right after it.
    ``real_tokens`` counts the tokens of all rows as if each stood alone: the unit of honest speed. Tokens and predictions
    that only fill the row up see nothing but themselves and weigh nothing.
    """

    input_ids_1T: Tensor
    layout: Layout
    source_N: Tensor
    target_N: Tensor
    weight_N: Tensor
    real_tokens: int

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        return Batch(
            self.input_ids_1T.to(device),
            self.layout.to(device, dtype),
            self.source_N.to(device),
            self.target_N.to(device),
            self.weight_N.to(device),
            self.real_tokens,
        )


def collate(examples: Sequence[Example], *, share_prefixes: bool = True, multiple: int = 1) -> Batch:
    """Lay examples out as a flat row.

    Args:
        examples: The rows of one micro-batch, each with at least one token.
        share_prefixes: Store beginnings that rows share once (exact: see ``tuneloop.models.Forest``).
        multiple: Fill T and N up to a multiple of this, so that fewer different shapes occur.
    """
    forest = Forest.grow([e.input_ids for e in examples], share=share_prefixes)
    source, target, weight = [], [], []
    for example, places in zip(examples, forest.places, strict=True):
        for t, counted in enumerate(example.loss_mask):
            if counted:
                source.append(places[t - 1])
                target.append(example.input_ids[t])
                weight.append(example.weight)
    forest.fill(-len(forest.tokens) % multiple)
    empty = -len(source) % multiple
    source, target, weight = source + [0] * empty, target + [0] * empty, weight + [0.0] * empty
    return Batch(
        torch.tensor([forest.tokens]),
        layout(forest.nodes),
        torch.tensor(source, dtype=torch.int64),
        torch.tensor(target, dtype=torch.int64),
        torch.tensor(weight, dtype=torch.float32),
        sum(len(e.input_ids) for e in examples),
    )
