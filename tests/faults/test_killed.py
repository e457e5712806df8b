"""A training that is killed, stopped or runs out of disk: nothing is lost, and the weights come out the same."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TRAIN = "from tuneloop.cli import main; main()"
STEPS, KILL_AT = 40, 5
WEIGHTS = "bundle/adapter_model.safetensors"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def project(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    rows = [
        f"{text} in place number {i},{label}\n"
        for label, text in (("card_lost", "my card is gone"), ("fee_question", "what is the fee"))
        for i in range(20)
    ]
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
  lora: {{rank: 4, dropout: 0.1}}
""")
    return folder / "p.yaml"


def start(project: Path, name: str, *, file_limit: int | None = None) -> subprocess.Popen[str]:
    """``tuneloop train`` in a process of its own; files may grow to ``file_limit`` bytes."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, "train", str(project), f"name={name}", "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=project.parent, preexec_fn=limit,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(project: Path, name: str) -> bytes:
    """Start it again, let it end, and return the weights."""
    process = start(project, name)
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert out.startswith("train: ")
    folder = project.parent / "runs" / name / "train"
    assert json.loads((folder / "train.json").read_text())["steps"] == STEPS
    steps = [m["step"] for m in lines(folder / "metrics.jsonl") if "loss" in m]
    assert steps == list(range(1, STEPS + 1)), "each step stands in the log once"
    assert not (folder / "checkpoints").exists()
    return (folder / WEIGHTS).read_bytes()


def lines(path: Path) -> list[dict[str, float]]:
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    end = time.monotonic() + DEADLINE_S
    while not any(m["step"] >= step for m in lines(folder / "metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the training did not reach the step"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def uninterrupted(project: Path) -> bytes:
    return finish(project, "whole")


def two_lines(errors: str) -> list[str]:
    assert "Traceback" not in errors, errors
    found = errors.strip().splitlines()
    assert len(found) == 2, errors
    assert found[0].startswith("error: ")
    assert found[1].startswith("hint: ")
    return found


def test_killed_twice_and_continued_is_bit_identical(project: Path, uninterrupted: bytes) -> None:
    folder = project.parent / "runs/killed/train"
    for step in (KILL_AT, 3 * KILL_AT):
        process = start(project, "killed")
        wait_for_step(process, folder, step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
        assert json.loads((folder / "manifest.json").read_text())["status"] == "running"
        assert sorted((folder / "checkpoints").glob("step-*"))
    assert finish(project, "killed") == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_on_request(project: Path, uninterrupted: bytes, number: signal.Signals) -> None:
    name = f"stopped-{number.name}"
    process = start(project, name)
    wait_for_step(process, project.parent / "runs" / name / "train", KILL_AT)
    process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 75, errors
    first, hint = two_lines(errors)
    assert "a checkpoint is written" in first
    assert "same command" in hint
    assert finish(project, name) == uninterrupted


def test_damaged_checkpoint_is_passed_over(project: Path, uninterrupted: bytes) -> None:
    folder = project.parent / "runs/damaged/train"
    process = start(project, "damaged")
    wait_for_step(process, folder, KILL_AT)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    newest = max((folder / "checkpoints").glob("step-*"))
    whole = (newest / "weights.safetensors").read_bytes()
    (newest / "weights.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert finish(project, "damaged") == uninterrupted


@pytest.mark.parametrize("file_limit", [1_000, 20_000])
def test_full_disk(project: Path, uninterrupted: bytes, file_limit: int) -> None:
    """No file may grow beyond the limit: what a quota or a full disk does, at different points of the training."""
    name = f"full-{file_limit}"
    prepare(project, name)
    process = start(project, name, file_limit=file_limit)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 5, errors
    first, _ = two_lines(errors)
    assert name in first
    assert finish(project, name) == uninterrupted


def prepare(project: Path, name: str) -> None:
    """The data stage, without a limit."""
    words = [sys.executable, "-c", TRAIN, "data", str(project), f"name={name}", "-q"]
    subprocess.run(words, check=True, cwd=project.parent, capture_output=True)
