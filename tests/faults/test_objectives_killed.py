"""Kill -9 and continue, with every objective and with noise: the weights come out the same, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

STEPS, KILL_AT = 12, 5
DEADLINE_S = 240.0
CASES = {
    "pretrain": ["train.objective=pretrain", "train.max_length_tokens=16", "train.batch_size=3"],
    "distil": ["train.objective=distil", "train.distil={teacher: TEACHER, top_k: 8}", "train.method=full"],
}


@pytest.fixture(scope="module")
def project(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    rows = [f"my {what} is gone in place number {i},{what}_lost\n" for what in ("card", "phone") for i in range(20)]
    (folder / "rows.csv").write_text("message,intent\n" + "".join(rows))
    (folder / "p.yaml").write_text(f"""\
name: whole
data: {{path: rows.csv, steps: [repair, empty]}}
model: {{name: {tiny("llama", "smollm")}}}
train:
  batch_size: 4
  max_steps: {STEPS}
  epochs: 100
  learning_rate: 1e-2
  trackers: []
  checkpoint: {{every_steps: 2}}
  optimizer: {{neftune_alpha: 5}}
""")
    return folder / "p.yaml"


def start(project: Path, name: str, options: list[str]) -> subprocess.Popen[str]:
    code = "from tuneloop.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", str(project), f"name={name}", *options, "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=project.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(project: Path, name: str, options: list[str]) -> bytes:
    process = start(project, name, options)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    folder = project.parent / "runs" / name / "train"
    assert json.loads((folder / "train.json").read_text())["steps"] == STEPS
    assert not (folder / "checkpoints").exists(), "the teacher's cache goes with the checkpoints"
    return b"".join(f.read_bytes() for f in sorted((folder / "bundle").glob("*.safetensors")))


def killed_at(project: Path, name: str, options: list[str], step: int) -> None:
    process, log = start(project, name, options), project.parent / "runs" / name / "train" / "metrics.jsonl"
    end = time.monotonic() + DEADLINE_S
    while not log.exists() or log.read_bytes().count(b"grad_norm") < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the training did not reach the step"
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"


@pytest.mark.parametrize("case", CASES)
def test_killed_and_continued_is_bit_identical(tiny: Callable[..., Path], project: Path, case: str) -> None:
    teacher = str(tiny("llama", "smollm", seed=5))
    options = [option.replace("TEACHER", teacher) for option in CASES[case]]
    killed_at(project, f"{case}-killed", options, KILL_AT)
    assert finish(project, f"{case}-killed", options) == finish(project, f"{case}-whole", options)
