"""``tuneloop train`` under torchrun: the same command, the same run folder, stopped and killed and continued."""

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
import torch

from tests.parallel.launching import DEADLINE_S, environment, free_port, torchrun
from tuneloop.models import load_model, open_bundle, verify

STEPS = 30
START = "tuneloop.train.parallel.start"


@pytest.fixture(scope="module")
def project(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on which one process has trained the run ``one``."""
    folder = tmp_path_factory.mktemp("project")
    rows = [
        f"{text} in place number {i},{label}\n"
        for label, text in (("card_lost", "my card is gone"), ("fee_question", "what is the fee"))
        for i in range(20)
    ]
    (folder / "rows.csv").write_text("message,intent\n" + "".join(rows))
    (folder / "p.yaml").write_text(f"""\
name: one
data: {{path: rows.csv, steps: [repair, empty]}}
model: {{name: {tiny("llama", "smollm")}}}
train: {{batch_size: 3, max_steps: {STEPS}, epochs: 100, trackers: [], checkpoint: {{every_steps: 2}}, lora: {{rank: 4}}}}
""")
    alone = subprocess.run(
        [sys.executable, "-m", "tuneloop", "train", "p.yaml", "-q"],
        cwd=folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    return folder


def command(name: str, *more: str) -> list[str]:
    return ["-m", "tuneloop", "train", "p.yaml", f"name={name}", "-q", *more]


def losses(project: Path, name: str) -> list[float]:
    file = project / "runs" / name / "train" / "metrics.jsonl"
    whole = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [line["loss"] for line in map(json.loads, whole) if "loss" in line]


def wait_for_step(process: subprocess.Popen[str], project: Path, name: str, step: int) -> None:
    end = time.monotonic() + DEADLINE_S
    while len(losses(project, name)) < step:
        assert process.poll() is None, process.communicate()[1][-4000:]
        assert time.monotonic() < end, "the training did not reach the step"
        time.sleep(0.01)


def assert_same_run(project: Path, name: str) -> None:
    """The curve and the bundle are those of one process."""
    assert losses(project, name) == pytest.approx(losses(project, "one"), abs=1e-4)
    made, expected = (open_bundle(project / "runs" / n / "train" / "bundle") for n in (name, "one"))
    verify(made)
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        got, wanted = (load_model(b)(input_ids=ids).logits for b in (made, expected))
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=0)


def test_the_same_command_under_torchrun(project: Path) -> None:
    process = torchrun(command("two"), cwd=project)
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors[-4000:]
    assert out.count("train: ") == 1, "only the main process prints"
    assert_same_run(project, "two")


@pytest.mark.slow
def test_stopped_by_a_signal_to_one_process_and_continued_by_one(project: Path) -> None:
    """SIGTERM to torchrun's second process: all stop at one step with a checkpoint, and the exit code says to resume."""
    process = torchrun(command("stopped", "train.parallel.strategy=fsdp"), START, cwd=project)
    wait_for_step(process, project, "stopped", 5)
    os.kill(children(process.pid)[1], signal.SIGTERM)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 75, errors[-4000:]
    assert errors.count("a checkpoint is written") == 1, errors
    done = len(losses(project, "stopped"))
    assert (project / f"runs/stopped/train/checkpoints/step-{done:08}").is_dir()
    finish_alone(project, "stopped")


@pytest.mark.slow
def test_stopped_through_torchrun_and_continued_by_two(project: Path) -> None:
    process = torchrun(command("term"), START, cwd=project)
    wait_for_step(process, project, "term", 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 75, errors[-4000:]
    again = torchrun(command("term"), START, cwd=project)
    _, errors = again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0, errors[-4000:]
    assert_same_run(project, "term")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_is_killed_the_other_ends_with_an_error(project: Path, killed: int) -> None:
    """Without a launcher that would end it: the variables of two processes, set by hand."""
    name = f"killed-{killed}"
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, *command(name)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=project,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    wait_for_step(both[0], project, name, 5)
    both[killed].kill()
    _, errors = both[1 - killed].communicate(timeout=60)
    both[killed].communicate()
    assert both[1 - killed].returncode == 5, errors
    assert "Traceback" not in errors
    assert "another process of this run is gone" in errors
    if killed == 1:
        finish_alone(project, name)


def finish_alone(project: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, *command(name)], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(project, name)


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started, oldest first."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return sorted(int(word) for word in found.stdout.split())
