"""One small training, by itself or on several processes: ``torchrun ... curves.py CASES.json FOLDER``.

case   {"name", "arch", "method", "parallel": {...}, "steps", "until": stop after so many steps, "folder": of the run}
FOLDER/NAME.json         losses, gradient norms, validation losses, step by step
FOLDER/NAME.pt               logits of the merged model in the end
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.tiny import tiny_model
from tuneloop.progress import set_quiet
from tuneloop.rundir import RunDir
from tuneloop.train import World, checkpoint, objectives, world
from tuneloop.train.config import TrainConfig
from tuneloop.train.methods import merge
from tuneloop.train.phases import train_phases
from tuneloop.train.plan import draw
from tuneloop.types import Example

VOCABULARY, STEPS = 300, 10
ROWS = 28  # nine a step: the last step of an epoch has one row, and one of two processes none


def rows(count: int = ROWS, seed: int = 0) -> list[Example]:
    """Rows of very different lengths and weights that share a beginning."""
    rng = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, VOCABULARY) for _ in range(n))

    system = tokens(12)
    made = []
    for i in range(count):
        prompt, answer = system + tokens(rng.randrange(2, 40)), tokens(rng.randrange(1, 12))
        mask = (False,) * len(prompt) + (True,) * len(answer)
        made.append(Example(f"row{i}", prompt + answer, mask, weight=1.0 + 0.5 * (i % 3)))
    return made


def configuration(case: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "method": case["method"],
            "batch_size": 3,
            "accumulation_steps": 3,
            "learning_rate": 3e-3 if case["method"] in ("lora", "staged") else 1e-3,
            "trackers": (),
            "optimizer": {"weight_decay": 0.1, "max_grad_norm": 0.5, "ema_decay": case.get("ema", 0.0)},
            "lora": {"rank": 4, "dropout": case.get("dropout", 0.0)},
            "validation": {"every_steps": 4},
            "checkpoint": {"every_steps": 4},
            "parallel": case.get("parallel", {}),
            "stages": case.get("stages", ()),
            "select": case.get("select", {"layers": 1}),
        }
    )


def train(case: dict[str, Any], folder: Path, here: World) -> None:
    """Train one case and write what became of it."""
    set_quiet(True)
    config, examples = configuration(case), rows()
    out = RunDir(folder / case.get("folder", case["name"]))
    plan = draw([len(e.input_ids) for e in examples], batch_size=3, accumulation_steps=3, epochs=9, max_steps=STEPS)
    torch.manual_seed(0)
    model = tiny_model(case["arch"], vocab_size=VOCABULARY, **case.get("model", {}))
    with stopping_after(case.get("until")):
        done = train_phases(model, config, examples, rows(7, 1), lambda *_: plan, objectives.create, out, world=here)
    if here.is_main:
        lines = list(out.metrics())
        wanted = ("loss", "grad_norm", "validation_loss")
        facts: dict[str, Any] = {k: [line[k] for line in lines if k in line] for k in wanted}
        facts["trained"] = sum(p.numel() for p in done.model.parameters() if p.requires_grad)
        (folder / f"{case['name']}.json").write_text(json.dumps(facts))
        final = merge(done.model).eval()
        final.set_attn_implementation("sdpa")
        with torch.no_grad():
            logits = final(input_ids=torch.arange(5, 45)[None]).logits
        torch.save(logits, folder / f"{case['name']}.pt")


class Stop(Exception):
    """Ends a training from within, in every process after the same checkpoint."""


@contextmanager
def stopping_after(step: int | None) -> Iterator[None]:
    """The checkpoint of this step is the last thing that a training does."""
    save = checkpoint.save

    def save_and_stop(folder: Path, live: Any, position: Any, **options: Any) -> Path:
        written = save(folder, live, position, **options)
        if position.step == step:
            raise Stop
        return written

    checkpoint.save = save_and_stop
    try:
        yield
    finally:
        checkpoint.save = save


def main(cases: Path, folder: Path) -> None:
    with world(60.0) as here:
        for case in json.loads(cases.read_text()):
            with suppress(Stop):
                train(case, folder, here)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
