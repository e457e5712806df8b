"""What tests of a run need: rows, a tiny prepared model, a loop over them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.tiny import tiny_model
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig
from tuneloop.train.loop import Fitted, Loop, Start
from tuneloop.train.methods import prepare
from tuneloop.train.objectives import Objective, create
from tuneloop.train.plan import draw
from tuneloop.types import Example

VOCABULARY = 60


def rows(count: int, seed: int = 0, length: int = 12) -> list[Example]:
    """Rows of ``length`` to ``length + 5`` tokens whose last four are learned."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        ids = tuple(rng.randrange(3, VOCABULARY) for _ in range(length + rng.randrange(6)))
        out.append(Example(f"row{i}", ids, (False,) * (len(ids) - 4) + (True,) * 4))
    return out


def settings(**more: Any) -> TrainConfig:
    """Of a short run without trackers."""
    given = {"batch_size": 4, "epochs": 3, "learning_rate": 5e-3, "trackers": (), "lora": {"rank": 4}}
    return TrainConfig(**given | more)


def loop_of(
    config: TrainConfig,
    out: Path,
    *,
    count: int = 16,
    held_out: Sequence[Example] = (),
    wrap: Callable[[Objective], Objective] = lambda objective: objective,
    **more: Any,
) -> Loop:
    """A loop over ``count`` rows of a fresh tiny model; ``wrap`` may change its objective."""
    torch.manual_seed(0)
    model = prepare(tiny_model("llama", vocab_size=VOCABULARY), config)
    examples = rows(count)
    plan = draw(
        [len(e.input_ids) for e in examples],
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        epochs=config.epochs,
        max_steps=config.max_steps,
    )
    out.mkdir(parents=True, exist_ok=True)
    objective = wrap(create(model, config))
    return Loop(model, objective, examples, held_out, plan, config, RunDir(out), Start(), **more)


def fit(config: TrainConfig, out: Path, **more: Any) -> tuple[Loop, Fitted]:
    """The same, run to its end."""
    loop = loop_of(config, out, **more)
    return loop, loop.run()


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in loop.parameters.items()}


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in RunDir(out).metrics() if "loss" in line]
