"""Killed at random moments, method by method: the run goes on and ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STEPS = 12
KILLS_EACH = 4
"""Of six kills of each case in the slow test at least so many come before the run is over (at least 50 in all)."""

CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "lora": {"rank": 4, "dropout": 0.1, "experts": False}},
    "lora, accumulated": {"method": "lora", "lora": {"rank": 4, "dropout": 0.1, "experts": False}, "accumulation_steps": 3},
    "full": {"method": "full", "accumulation_steps": 2},
    "tokens a step": {"method": "lora", "tokens_per_step": 300, "memory": {"max_tokens_per_pass": 120}},
    "average and patience": {
        "method": "lora", "lora": {"dropout": 0.1, "experts": False}, "optimizer": {"ema_decay": 0.9},
        "validation": {"every_steps": 3, "patience": 50},
    },
    "freeze, cached activations": {"method": "freeze", "freeze": {"last_layers": 1}},
    "select": {"method": "select", "select": {"layers": 1, "every_steps": 3}},
    "prefix": {"method": "prefix", "prefix": {"tokens": 4}},
    "prompt": {"method": "prompt", "prefix": {"tokens": 4}},
    "dora": {"method": "dora", "lora": {"rank": 4, "dropout": 0.1, "targets": "attention"}},
    "noise": {"method": "lora", "lora": {"rank": 4, "experts": False}, "optimizer": {"neftune_alpha": 5.0}},
    "stopped early": {"method": "full", "learning_rate": 0.1, "validation": {"every_steps": 1, "patience": 3}},
    "staged": {
        "method": "staged",
        "stages": [
            {"method": "lora", "max_steps": 4, "lora": {"rank": 4, "dropout": 0.1, "experts": False}},
            {"method": "lora", "max_steps": 4, "lora": {"rank": 4, "dropout": 0.1, "experts": False}, "learning_rate": 1e-3},
            {"method": "full", "max_steps": 4},
        ],
    },
}  # fmt: skip


class Nursery:
    """Forks runs of ``tuneloop train``; see tests/faults/nursery.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def train(self, project: Path, name: str, at_step: int | None = None, then_s: float = 0.0) -> int:
        """Exit status, negative for a signal."""
        metrics = project.parent / "runs" / name / "train" / "metrics.jsonl"
        asked = {"words": ["train", str(project), f"name={name}", "-q"], "metrics": str(metrics)}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({**asked, "at_step": at_step, "then_s": then_s}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def finish(self, project: Path, name: str) -> dict[str, bytes]:
        """Let a run end; its weights by file name."""
        status = self.train(project, name)
        assert status == 0, (self.folder / "nursery.log").read_text()
        bundle = project.parent / "runs" / name / "train" / "bundle"
        found = {f.name: f.read_bytes() for f in sorted(bundle.glob("*.safetensors"))}
        assert found
        return found

    def close(self) -> None:
        assert self.process.stdin
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    found = Nursery(tmp_path_factory.mktemp("nursery"))
    yield found
    found.close()


def project(folder: Path, model: Path, train: dict[str, Any]) -> Path:
    rows = [
        f"{text} in place number {i},{label}\n"
        for label, text in (("card_lost", "my card is gone"), ("fee_question", "what is the fee"))
        for i in range(20)
    ]
    (folder / "rows.csv").write_text("message,intent\n" + "".join(rows))
    common = {
        "batch_size": 4, "max_steps": STEPS, "epochs": 100, "learning_rate": 1e-2, "trackers": [],
        "checkpoint": {"every_steps": 2},
    }  # fmt: skip
    whole = {
        "name": "whole",
        "data": {"path": "rows.csv", "steps": ["repair", "empty"]},
        "model": {"name": str(model)},
        "train": {**common, **train},
    }
    path = folder / "p.yaml"
    path.write_text(json.dumps(whole))  # JSON is YAML
    return path


def losses(path: Path, name: str) -> list[tuple[int, float]]:
    text = (path.parent / "runs" / name / "train" / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [(m["step"], m["loss"]) for m in found if "loss" in m]


def kill_and_compare(nursery: Nursery, path: Path, name: str, kills: int, whole: dict[str, bytes]) -> int:
    """Kill a run ``kills`` times at random moments, let it end, compare with an undisturbed one; kills that came in time."""
    draw = random.Random(f"{path.name}/{name}")
    landed = 0
    for at_step in sorted(draw.randrange(-1, STEPS) for _ in range(kills)):
        landed += nursery.train(path, name, at_step, draw.uniform(0, 0.1)) == -signal.SIGKILL
    assert nursery.finish(path, name) == whole
    assert losses(path, name) == losses(path, "whole")
    return landed


@pytest.mark.parametrize("case", ["lora, accumulated", "staged"])
def test_killed_at_random_moments_ends_with_the_same_bits(
    case: str, nursery: Nursery, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = project(tmp_path, tiny("llama", "smollm"), CASES[case])
    assert kill_and_compare(nursery, path, "killed", 2, nursery.finish(path, "whole")) > 0


MATRIX = [(c, a) for c in CASES for a in ("llama", "deepseek_v3") if (c, a) != ("prefix", "deepseek_v3")]
"""Latent attention has no keys and values for a prefix: that is refused (tests/invariants/test_virtual_tokens.py)."""


@pytest.mark.slow
@pytest.mark.parametrize(("case", "arch"), MATRIX)
def test_every_method_survives_many_kills(
    case: str, arch: str, nursery: Nursery, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = project(tmp_path, tiny(arch, "smollm"), CASES[case])
    whole = nursery.finish(path, "whole")
    landed = sum(kill_and_compare(nursery, path, f"killed-{i}", 3, whole) for i in range(2))
    assert landed >= KILLS_EACH
