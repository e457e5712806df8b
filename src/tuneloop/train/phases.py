"""Staged training: one loop after another on the same model, each stage's weights carried into the next.

A finished stage leaves its weights in ``checkpoints/stage-1/final``; a resumed run takes them from there and goes on in
the stage that was interrupted. Adapters of a finished stage are merged before the next one begins, unless the next one
trains the very same adapters at another rate.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tuneloop.progress import log
from tuneloop.rundir import CHECKPOINTS, RunDir
from tuneloop.train import checkpoint, compiled, loop
from tuneloop.train.companions import tensors_of
from tuneloop.train.config import ADAPTERS, TrainConfig
from tuneloop.train.methods import border, merge, prepare
from tuneloop.train.objectives import Objective
from tuneloop.train.optimise import trained_parameters
from tuneloop.train.parallel.place import place, suited
from tuneloop.train.parallel.world import ALONE, World
from tuneloop.train.plan import BatchPlan
from tuneloop.train.samples import Sampler
from tuneloop.types import Example

FINAL = "final"


@dataclass(frozen=True, slots=True)
class Trained:
    """The model after its last stage: wrapped (``adapter``) or its own weights. ``parameters`` counts those that trained,
    in the stage with most of them."""

    model: nn.Module
    fitted: loop.Fitted
    adapter: bool
    parameters: int


def train_phases(
    model: nn.Module,
    config: TrainConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    plan_of: Callable[[int, TrainConfig], BatchPlan],
    objective_of: Callable[[nn.Module, TrainConfig], Objective],
    out: RunDir,
    seed: int = 0,
    sampler: Sampler | None = None,
    world: World = ALONE,
) -> Trained:
    """Run every stage of a configuration (an ordinary run has one).

    Args:
        model: The base model.
        config: Of the whole run.
        examples: Training rows.
        validation: Rows to watch.
        plan_of: Number and configuration of a stage -> its batch plan.
        objective_of: Prepared model and configuration of a stage -> what it minimises.
        out: The run.
        seed: Of what a later stage draws, so that it does not depend on whether the earlier ones ran in this process.
        sampler: Answers validation questions while training.
        world: The processes that train together; each ends with the whole model.

    Raises:
        Interrupted: Stopped by a signal, with a checkpoint.
        ModelError: The loss is not finite.
    """
    phases = [suited(phase, world) for phase in config.phases()]
    fitted = loop.Fitted(0, 0, float("nan"), None, 0.0)
    wrapped: TrainConfig | None = None
    most = 0
    for number, phase in enumerate(phases):
        if number:
            torch.manual_seed(seed + number)
        if wrapped is not None and not _same_adapter(wrapped, phase):
            model, wrapped = merge(model), None
        if wrapped is None:
            model = prepare(model, phase)
        wrapped = phase if phase.method in ADAPTERS else None
        most = max(most, sum(p.numel() for p in trained_parameters(model).values()))
        alone = len(phases) == 1
        start = loop.Start() if alone else _start(config, number, fitted)
        final = Path(out.path) / start.folder / FINAL
        plan = plan_of(number, phase)
        facts = None if alone else checkpoint.load_weights(final, trained_parameters(model))
        if facts is not None and facts["plan_hash"] == plan.hash:
            fitted = loop.Fitted(**facts["fitted"])
            log(f"  {start.name}: already done")
            continue
        if not alone:
            log(f"  {start.name}: {phase.method}, {len(plan.steps)} steps at {phase.peak_learning_rate:g}")
            world.from_main(partial(_forget_later, out, number, len(phases)))
        placed = place(model, phase, world)
        objective = border.from_border(
            placed.model, objective_of(placed.model, phase), examples, validation, plan, phase, final.parent
        )
        compiled.arrange(placed.model, objective, examples, plan, phase, final.parent, alone=world.alone)
        fitted = loop.fit(placed.model, objective, examples, validation, plan, phase, out, start, sampler, placed)
        compiled.remove(placed.model)
        model = placed.restore()
        if not alone:
            kept = tensors_of(trained_parameters(model))
            facts = {"fitted": asdict(fitted), "plan_hash": plan.hash}
            world.from_main(partial(checkpoint.save_weights, final, kept, facts))
            world.from_main(partial(border.forget, final.parent))
    # One adapter from the first stage to the last is an adapter of the base; after a merge it is not.
    adapter = wrapped is not None and all(_same_adapter(phases[0], p) for p in phases)
    if wrapped is not None and not adapter:
        model = merge(model)
    return Trained(model, replace(fitted), adapter, most)


def _start(config: TrainConfig, number: int, before: loop.Fitted) -> loop.Start:
    name = config.stages[number].name or f"stage {number + 1}"
    return loop.Start(before.steps, before.tokens, _folder(number), name)


def _forget_later(out: RunDir, number: int, count: int) -> None:
    """A stage that has to be done again makes what came after it, and its metrics, a thing of the past."""
    for later in range(number + 1, count):
        shutil.rmtree(Path(out.path) / _folder(later), ignore_errors=True)


def _folder(number: int) -> str:
    return f"{CHECKPOINTS}/stage-{number + 1}"


def _same_adapter(a: TrainConfig, b: TrainConfig) -> bool:
    def shape(config: TrainConfig) -> tuple[Any, ...]:
        return config.method, config.lora, config.prefix

    return a.method in ADAPTERS and shape(a) == shape(b)
