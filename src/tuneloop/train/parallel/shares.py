"""Who computes which rows of an optimizer step. The step itself is the plan's: the number of processes does not change it."""

from __future__ import annotations

from collections.abc import Sequence

from tuneloop.train.plan import spread
from tuneloop.types import Example

Rows = Sequence[Example]


def shares(micro_batches: Sequence[Rows], size: int) -> list[list[Rows]]:
    """Deal the rows of a step to ``size`` processes and cut each share into passes.

    Longest first to whoever has the fewest tokens, so all finish at nearly the same time. No pass is larger than the
    largest of the plan, in rows or in tokens. Every process computes the same answer.

    Args:
        micro_batches: The step as planned.
        size: Number of processes.

    Returns:
        For each process its passes; none where there are fewer rows than processes.
    """
    rows = [row for micro in micro_batches for row in micro]
    lengths = [len(row.input_ids) for row in rows]
    most_rows = max(len(micro) for micro in micro_batches)
    most_tokens = max(sum(len(row.input_ids) for row in micro) for micro in micro_batches)
    held: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for i in sorted(range(len(rows)), key=lambda i: (-lengths[i], i)):
        lightest = min(range(size), key=lambda r: (tokens[r], r))
        held[lightest].append(i)
        tokens[lightest] += lengths[i]
    return [
        [[rows[i] for i in part] for part in spread(own, lengths, most_rows, most_tokens)] if own else []
        for own in held
    ]
