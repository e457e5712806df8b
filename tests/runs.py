"""Short training runs of tiny models, whole and interrupted, for tests of the training room."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig
from tuneloop.train.loop import fit
from tuneloop.train.objectives import create
from tuneloop.train.plan import BatchPlan
from tuneloop.types import Example


class Killed(Exception):
    """What a test stops a run with."""


def some_rows(count: int, *, seed: int = 0, vocabulary: int = 300, shared: int = 12) -> list[Example]:
    """Rows with a common beginning of ``shared`` tokens, of different lengths; one equals another."""
    rng = random.Random(seed)
    system = tuple(rng.randrange(5, vocabulary) for _ in range(shared))
    out = []
    for i in range(count):
        prompt = (*system, *(rng.randrange(5, vocabulary) for _ in range(rng.randrange(3, 20))))
        answer = tuple(rng.randrange(5, vocabulary) for _ in range(rng.randrange(1, 6)))
        out.append(Example(f"row{i}", prompt + answer, (False,) * len(prompt) + (True,) * len(answer), 1.0 + i % 2))
    out[-1] = Example("twin", out[0].input_ids, out[0].loss_mask)
    return out


def some_plan(rows: int, *, steps: int, batch_size: int = 4, accumulation: int = 1) -> BatchPlan:
    """Random rows for every step, drawn from a fixed seed."""
    rng = random.Random(7)
    micro = [[tuple(rng.sample(range(rows), batch_size)) for _ in range(accumulation)] for _ in range(steps)]
    return BatchPlan(tuple(tuple(m) for m in micro), (steps,))


def losses_of(out: Path) -> list[float]:
    return [line["loss"] for line in RunDir(out).metrics() if "loss" in line]


def fit_tiny(
    model: Any, config: TrainConfig, examples: Sequence[Example], plan: BatchPlan, out: Path,
    *, validation: Sequence[Example] = (), die_at_call: int | None = None, wrap: Any = None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Train a prepared model and return a copy of all its weights.

    Args:
        model: Prepared by a method.
        config: Of the run.
        examples: Training rows.
        plan: Their order.
        out: The run's folder; what is there is continued.
        validation: Rows to watch.
        die_at_call: Raise ``Killed`` when the loss is asked for the n-th time (from 0).
        wrap: (objective) -> objective, put between the run and its loss.
    """
    objective: Any = create(model, config)
    objective = wrap(objective) if wrap else objective
    calls = 0

    def counted(network: Any, rows: Sequence[Example]) -> torch.Tensor:
        nonlocal calls
        if calls == die_at_call:
            raise Killed
        calls += 1
        loss: torch.Tensor = objective(network, rows)
        return loss

    out.mkdir(exist_ok=True, parents=True)
    fit(model, counted, examples, list(validation), plan, config, RunDir(out))
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    differing = [name for name in a if not torch.equal(a[name], b[name])]
    assert not differing, differing
