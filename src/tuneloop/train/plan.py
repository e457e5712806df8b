"""The batch plan: which rows make which step. It is data: drawn once from a seed, saved, and followed on resume."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.config import hash_json
from tuneloop.types import Example


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
    accumulation_steps: int = 1,
    tokens_per_step: int | None = None,
    max_tokens_per_pass: int | None = None,
    pack_tokens: int | None = None,
    epochs: float = 1.0,
    max_steps: int | None = None,
    seed: int = 0,
) -> BatchPlan:
    """Draw a plan.

    Every epoch is a fresh permutation. The rows of a step are spread over its micro-batches so that these hold nearly
    the same number of tokens; as the loss is weighted by tokens over the whole step, that changes memory and time only.

    Args:
        lengths_tokens: Tokens of every row.
        batch_size: Rows of a micro-batch, at most.
        accumulation_steps: Micro-batches of a step.
        tokens_per_step: Gather rows until a step holds this many tokens, instead of batch_size x accumulation_steps rows.
        max_tokens_per_pass: Tokens of a micro-batch, at most (a longer row goes alone).
        pack_tokens: Packing: a "row" of ``batch_size`` is this many tokens of whole rows, however many these are. A step
            takes rows as long as they fit, a micro-batch holds at most batch_size x pack_tokens tokens.
        epochs: Passes over the rows; may be fractional.
        max_steps: Stop there, whatever ``epochs`` says.
        seed: Of the permutations.
    """
    steps: list[tuple[tuple[int, ...], ...]] = []
    ends: list[int] = []
    rows, full = batch_size * accumulation_steps, False
    if pack_tokens is not None:
        max_tokens_per_pass = min(max_tokens_per_pass or batch_size * pack_tokens, batch_size * pack_tokens)
        tokens_per_step, full = tokens_per_step or rows * pack_tokens, tokens_per_step is None
        batch_size = len(lengths_tokens)
    last = max(1, math.ceil(epochs))
    for epoch in range(last):
        order = list(range(len(lengths_tokens)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        groups = list(_groups(order, lengths_tokens, rows, tokens_per_step, full=full))
        if epoch == last - 1 and (part := epochs - (last - 1)) < 1:
            groups = groups[: max(1, math.ceil(len(groups) * part))]
        steps += [spread(group, lengths_tokens, batch_size, max_tokens_per_pass) for group in groups]
        ends.append(len(steps))
        if max_steps and len(steps) >= max_steps:
            steps, ends[-1] = steps[:max_steps], max_steps
            break
    return BatchPlan(tuple(steps), tuple(ends))


def _groups(
    order: Sequence[int], lengths: Sequence[int], rows: int, tokens: int | None, *, full: bool
) -> Iterator[Sequence[int]]:
    """The rows of each optimizer step of one epoch; with ``full``, ``tokens`` is never passed (by rows that fit at all)."""
    if tokens is None:
        yield from (order[at : at + rows] for at in range(0, len(order), rows))
        return
    group: list[int] = []
    held = 0
    for row in order:
        if full and group and held + lengths[row] > tokens:
            yield group
            group, held = [], 0
        group.append(row)
        held += lengths[row]
        if held >= tokens:
            yield group
            group, held = [], 0
    if group:
        yield group


def spread(
    rows: Sequence[int], lengths: Sequence[int], batch_size: int, max_tokens: int | None
) -> tuple[tuple[int, ...], ...]:
    """Longest first into the lightest micro-batch that has room."""
    count = math.ceil(len(rows) / batch_size)
    if max_tokens:
        count = max(count, math.ceil(sum(lengths[r] for r in rows) / max_tokens))
    if count == 1:
        return (tuple(rows),)
    bins: list[list[int]] = [[] for _ in range(count)]
    held = [0] * count
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        free = [
            b
            for b in range(len(bins))
            if len(bins[b]) < batch_size and (not bins[b] or not max_tokens or held[b] + lengths[row] <= max_tokens)
        ]
        if not free:
            bins.append([])
            held.append(0)
            free = [len(bins) - 1]
        best = min(free, key=lambda b: held[b])
        bins[best].append(row)
        held[best] += lengths[row]
    return tuple(tuple(b) for b in bins if b)


def size(examples: Sequence[Example], plan: BatchPlan) -> tuple[int, int]:
    """Steps and real tokens of a plan."""
    return len(plan.steps), sum(len(examples[i].input_ids) for step in plan.steps for micro in step for i in micro)


def two_steps(examples: Sequence[Example], plan: BatchPlan) -> BatchPlan:
    """The step of a plan whose largest micro-batch has the most tokens, and one of ordinary size: enough to rehearse it."""

    def tokens(micro: Sequence[int]) -> int:
        return sum(len(examples[i].input_ids) for i in micro)

    heaviest = max(plan.steps, key=lambda step: max(map(tokens, step)))
    ordinary = sorted(plan.steps, key=lambda step: sum(map(tokens, step)))[len(plan.steps) // 2]
    return BatchPlan((heaviest, ordinary), (2,))
