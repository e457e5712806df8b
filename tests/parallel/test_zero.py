"""DeepSpeed on two CPU processes gives the curve and the model of one process without it.

Needs ``pip install 'tuneloop[deepspeed]'`` and a C++ compiler; its first start on a machine compiles for about three minutes.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.curves import STEPS, Stop, train
from tests.parallel.launching import train_together
from tuneloop.train.parallel.world import ALONE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs the extra deepspeed"),
    pytest.mark.skipif(
        shutil.which("c++") is None, reason="DeepSpeed compiles its CPU operators: needs a C++ compiler"
    ),
]

CASES: list[dict[str, Any]] = [
    {"name": f"{preset}-{arch}-{method}", "arch": arch, "method": method, "parallel": {"deepspeed": preset}}
    for preset, arch, method in (
        ("zero3", "llama", "lora"),
        ("zero3", "llama", "full"),
        ("zero3", "deepseek_v3", "lora"),
        ("zero3", "deepseek_v3", "full"),
        ("zero2", "llama", "full"),
        ("zero3_offload", "llama", "full"),
    )
]
BEGUN = {"arch": "llama", "method": "full", "until": 8}
HALVES = [{**BEGUN, "name": f"{preset}-then-one", "parallel": {"deepspeed": preset}} for preset in ("zero3", "zero2")]
FINISHED = {"arch": "llama", "method": "full", "name": "one-then-two"}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    for preset in ("zero3", "zero2"):
        with pytest.raises(Stop):
            train({**BEGUN, "name": f"one-then-{preset}"}, folder, ALONE)
    continued = [
        {**FINISHED, "name": f"one-then-{preset}", "parallel": {"deepspeed": preset}} for preset in ("zero3", "zero2")
    ]
    own = {**FINISHED, "name": "own-file", "parallel": {"deepspeed": str(own_file(folder))}}
    train_together([*CASES, *HALVES, *continued, own], folder, DS_ACCELERATOR="cpu")
    return folder


def own_file(folder: Path) -> Path:
    """A DeepSpeed file as Hugging Face's examples have them."""
    content = {
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "stage3_param_persistence_threshold": 100},
        "bf16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
    }
    (folder / "ds.json").write_text(json.dumps(content))
    return folder / "ds.json"


def assert_as_one_process(name: str, case: dict[str, Any], together: Path, tmp_path: Path) -> None:
    train({"name": "one", "arch": case["arch"], "method": case["method"]}, tmp_path, ALONE)
    expected = json.loads((tmp_path / "one.json").read_text())
    facts = json.loads((together / f"{name}.json").read_text())
    assert len(facts["loss"]) == STEPS
    for measured in ("loss", "grad_norm", "validation_loss"):
        assert facts[measured] == pytest.approx(expected[measured], abs=1e-4)
    logits, wanted = torch.load(together / f"{name}.pt"), torch.load(tmp_path / "one.pt")
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_two_processes_give_the_curve_and_the_model_of_one(
    case: dict[str, Any], together: Path, tmp_path: Path
) -> None:
    assert_as_one_process(case["name"], case, together, tmp_path)


@pytest.mark.parametrize("name", ["one-then-zero3", "one-then-zero2", "own-file"])
def test_begun_without_deepspeed_and_by_a_file_of_ones_own(name: str, together: Path, tmp_path: Path) -> None:
    assert_as_one_process(name, FINISHED, together, tmp_path)


@pytest.mark.parametrize("half", HALVES, ids=[h["name"] for h in HALVES])
def test_begun_with_deepspeed_finished_by_one_process(half: dict[str, Any], together: Path, tmp_path: Path) -> None:
    train({k: v for k, v in half.items() if k not in ("until", "parallel")}, together, ALONE)
    assert_as_one_process(half["name"], half, together, tmp_path)
