"""What can be tried before a training: it tells the truth about the run and leaves the run alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuneloop.cli.app import app

WORDS = ("lost my card", "what is this fee", "cannot sign in", "the money is late")
PLACES = (
    "on the train to Leeds", "since Monday's update", "after lunch with my aunt", "from a new phone", "while abroad",
    "in front of the branch", "twice within an hour", "although I paid", "before the holidays", "with my old tablet",
)  # fmt: skip


@pytest.fixture
def project(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    texts = [f"{text} {place},intent_{n}\n" for place in PLACES for n, text in enumerate(WORDS)]
    (tmp_path / "rows.csv").write_text("message,intent\n" + "".join(texts))
    (tmp_path / "p.yaml").write_text(f"""\
name: small
runs_folder: {tmp_path}/runs
data: {{path: rows.csv, steps: [repair, empty]}}
model: {{name: {tiny("llama", "smollm")}}}
train: {{epochs: 10, batch_size: 4, trackers: [], lora: {{rank: 4}}}}
""")
    return tmp_path / "p.yaml"


def do(project: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["train", str(project), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def left(project: Path) -> set[str]:
    return {p.name for p in (project.parent / "runs/small").iterdir()} - {".lock"}


@pytest.mark.parametrize("more", [(), ("train.method=full",), ("train.optimizer.ema_decay=0.9",)], ids=str)
def test_a_rehearsal_saves_reloads_answers_and_leaves_its_report(project: Path, more: tuple[str, ...]) -> None:
    said = do(project, "--rehearse", *more)
    assert left(project) == {"data", "rehearsal.json"}
    found = json.loads((project.parent / "runs/small/rehearsal.json").read_text())
    rows = len((project.parent / "runs/small/data/train.jsonl").read_text().splitlines())
    assert found["steps"] == 10 * -(-rows // 4)
    assert found["forecast_s"] == pytest.approx(found["steps"] * found["step_s"], rel=0.05, abs=0.5)
    assert found["bundle_bytes"] > 1000
    assert found["prompt"].endswith("<|im_start|>assistant\n")
    assert 0.1e9 < found["peak_memory_bytes"] < 20e9
    assert f"{found['steps']:,} steps in about" in said


def test_a_staged_run_is_rehearsed_stage_by_stage(project: Path) -> None:
    text = project.read_text().replace(
        "epochs: 10,", "epochs: 2, method: staged, stages: [{method: lora}, {method: full}],"
    )
    project.write_text(text)
    do(project, "--rehearse")
    rows = len((project.parent / "runs/small/data/train.jsonl").read_text().splitlines())
    found = json.loads((project.parent / "runs/small/rehearsal.json").read_text())
    assert found["steps"] == 2 * 2 * -(-rows // 4)


def test_a_rehearsal_in_the_middle_of_a_run_leaves_it_alone(project: Path) -> None:
    do(project, "train.max_steps=3")
    folder = project.parent / "runs/small/train"
    before = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    do(project, "--rehearse", "train.max_steps=3")
    do(project, "--find-learning-rate", "train.max_steps=3")
    assert {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()} == before
    assert do(project, "train.max_steps=3").splitlines()[0].endswith("(reused)")


def test_a_rehearsal_that_fails_leaves_nothing(project: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(project), "--rehearse", "train.memory.budget_gb=0.000001"])
    assert "does not fit into memory" in str(done.exception)
    assert left(project) == {"data"}


def test_a_rate_is_found_and_the_picture_is_in_the_run(project: Path) -> None:
    said = do(project, "--find-learning-rate")
    assert left(project) == {"data", "learning-rate.json", "learning-rate.svg"}
    found = json.loads((project.parent / "runs/small/learning-rate.json").read_text())
    assert len(found["rates"]) == len(found["losses"]) > 10
    assert said.splitlines()[0].split() == ["learning", "rate", "loss", "smoothed"]
    assert f"train.learning_rate={found['suggestion']:.1e}" in said


def test_json_is_the_report(project: Path) -> None:
    assert json.loads(do(project, "--rehearse", "--json"))["steps"] > 0


def test_a_finished_training_says_its_estimate_and_its_warnings(project: Path) -> None:
    do(project, "train.max_steps=3", "train.validation.samples=2")
    facts = json.loads((project.parent / "runs/small/train/train.json").read_text())
    assert facts["warnings"] == []
    assert 0.3 < facts["estimated_memory_bytes"] / facts["peak_memory_bytes"] < 3
    lines = (project.parent / "runs/small/train/samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 3]
    assert do(project, "train.max_steps=3", "train.validation.samples=2").splitlines()[0].endswith("(reused)")
