"""Two processes give the losses, gradient norms and model of one: replicas (DDP) and parts (FSDP2), fresh and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.curves import STEPS, Stop, train
from tests.parallel.launching import train_together
from tuneloop.train.parallel.world import ALONE

FSDP = {"strategy": "fsdp"}
CASES: list[dict[str, Any]] = [
    {"name": f"{strategy}-{arch}-{method}", "arch": arch, "method": method, "parallel": {"strategy": strategy}}
    for strategy in ("ddp", "fsdp")
    for arch in ("llama", "deepseek_v3")
    for method in ("lora", "full")
] + [
    *({"name": f"tensor-{arch}", "arch": arch, "method": "full", "parallel": {"strategy": "tensor"}}
      for arch in ("llama", "qwen2", "deepseek_v3")),
    {"name": "select", "arch": "llama", "method": "select", "parallel": {"strategy": "ddp"},
     "select": {"layers": 1, "every_steps": 3}},
    {"name": "tied", "arch": "llama", "method": "full", "parallel": FSDP, "model": {"tie_word_embeddings": True}},
    {"name": "averaged", "arch": "llama", "method": "lora", "parallel": FSDP, "ema": 0.9},
]  # fmt: skip
STAGES = [{"method": "lora", "max_steps": STEPS}, {"method": "full", "learning_rate": 1e-3}]
STAGED = {"name": "staged", "arch": "llama", "method": "staged", "parallel": FSDP, "stages": STAGES}
RESUMED = {"arch": "deepseek_v3", "method": "full", "until": 8}
HALVES = [
    {**RESUMED, "name": "two-then-one", "parallel": FSDP},
    {**RESUMED, "name": "two-then-one-ddp"},
]
DROPOUT = {"arch": "llama", "method": "lora", "dropout": 0.2}
INTERRUPTED = [
    {**DROPOUT, "name": "whole"},
    {**DROPOUT, "name": "interrupted", "until": 4},
    {**DROPOUT, "name": "interrupted"},
]
NAMES = [c["name"] for c in CASES]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every case; two more cases began in one process."""
    folder = tmp_path_factory.mktemp("together")
    begun = {**RESUMED, "name": "one-then-two"}
    with pytest.raises(Stop):
        train(begun, folder, ALONE)
    finished = {k: v for k, v in begun.items() if k != "until"} | {"parallel": FSDP}
    train_together([*CASES, STAGED, *HALVES, finished, *INTERRUPTED], folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


def result(case: dict[str, Any], folder: Path) -> tuple[dict[str, Any], torch.Tensor]:
    return json.loads((folder / f"{case['name']}.json").read_text()), torch.load(folder / f"{case['name']}.pt")


def one_process(case: dict[str, Any], folder: Path) -> tuple[dict[str, Any], torch.Tensor]:
    """The same case in this process, once for the strategies that share it."""
    plain = {k: v for k, v in case.items() if k not in ("parallel", "until")}
    plain["name"] = "-".join(str(plain.get(k, "")) for k in ("arch", "method", "model", "ema", "stages"))
    if not (folder / f"{plain['name'][:80]}.json").exists():
        train(plain | {"name": plain["name"][:80]}, folder, ALONE)
    return result(plain | {"name": plain["name"][:80]}, folder)


def assert_same(case: dict[str, Any], got: Path, alone: Path, steps: int = STEPS) -> None:
    (facts, logits), (expected, expected_logits) = result(case, got), one_process(case, alone)
    assert len(facts["loss"]) == steps
    assert facts["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert facts["grad_norm"] == pytest.approx(expected["grad_norm"], abs=1e-4)
    assert facts["validation_loss"] == pytest.approx(expected["validation_loss"], abs=1e-4)
    assert facts["trained"] == expected["trained"]
    assert max(facts["loss"]) - min(facts["loss"]) > 0.05, "a curve that does not move proves nothing"
    torch.testing.assert_close(logits, expected_logits, atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_two_processes_give_the_curve_and_the_model_of_one(case: dict[str, Any], together: Path, alone: Path) -> None:
    assert_same(case, together, alone)


def test_stages_on_two_processes_equal_stages_on_one(together: Path, alone: Path) -> None:
    assert_same(STAGED, together, alone, steps=2 * STEPS)


@pytest.mark.parametrize("half", HALVES, ids=[h["name"] for h in HALVES])
def test_begun_by_two_processes_finished_by_one(half: dict[str, Any], together: Path, alone: Path) -> None:
    before = [json.loads(line) for line in (together / half["name"] / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in before) == half["until"]
    train({k: v for k, v in half.items() if k not in ("until", "parallel")}, together, ALONE)
    assert_same(half, together, alone)


def test_begun_by_one_process_finished_by_two(together: Path, alone: Path) -> None:
    assert_same({**RESUMED, "name": "one-then-two"}, together, alone)


def test_two_processes_go_on_with_the_very_same_numbers(together: Path) -> None:
    """Each process's own random numbers are in the checkpoint: dropout makes every one of them count."""
    (whole, logits), (continued, same) = (result({"name": name}, together) for name in ("whole", "interrupted"))
    assert continued["loss"] == whole["loss"]
    assert torch.equal(same, logits)
