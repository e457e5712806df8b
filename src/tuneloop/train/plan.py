"""The batch plan: which rows make which step. It is data: drawn once from a seed, saved, and followed on resume."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.config import hash_json


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """``steps[s][m]`` lists the rows (indices) of micro-batch m of optimizer step s; ``epoch_ends`` are step counts."""

    steps: tuple[tuple[tuple[int, ...], ...], ...]
    epoch_ends: tuple[int, ...]

    @property
    def hash(self) -> str:
        return hash_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {"steps": [[list(m) for m in step] for step in self.steps], "epoch_ends": list(self.epoch_ends)}


def draw(
    lengths_tokens: Sequence[int],
    *,
    batch_size: int,
    accumulation_steps: int,
    epochs: float,
    max_steps: int | None,
    seed: int,
) -> BatchPlan:
    """Draw a plan.

    Every epoch is a fresh permutation. The rows of a step are spread over its micro-batches so that these hold nearly
    the same number of tokens; as the loss is weighted by tokens over the whole step, that changes memory and time only.
    """
    rows_per_step = batch_size * accumulation_steps
    per_epoch = math.ceil(len(lengths_tokens) / rows_per_step)
    total = max(1, math.ceil(per_epoch * epochs))
    total = min(total, max_steps) if max_steps else total
    steps: list[tuple[tuple[int, ...], ...]] = []
    ends: list[int] = []
    epoch = 0
    while len(steps) < total:
        order = list(range(len(lengths_tokens)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for at in range(0, len(order), rows_per_step):
            steps.append(_spread(order[at : at + rows_per_step], lengths_tokens, batch_size))
            if len(steps) == total:
                break
        ends.append(len(steps))
        epoch += 1
    return BatchPlan(tuple(steps), tuple(ends))


def _spread(rows: Sequence[int], lengths: Sequence[int], batch_size: int) -> tuple[tuple[int, ...], ...]:
    """Longest first into the lightest micro-batch that has room."""
    count = math.ceil(len(rows) / batch_size)
    if count == 1:
        return (tuple(rows),)
    bins: list[list[int]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        free = [b for b in bins if len(b) < batch_size]
        min(free, key=lambda b: sum(lengths[r] for r in b)).append(row)
    return tuple(tuple(b) for b in bins)
