"""The whole loop on a tiny random model: raw rows in, verdict and report out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tuneloop
from tuneloop import data
from tuneloop.cli.app import app
from tuneloop.loop import STAGES, LoopResult
from tuneloop.rundir import Run
from tuneloop.types import SPLITS

TEXTS = {
    "card_lost": ("my card is gone", "someone stole my card", "i cannot find the card", "please block my card"),
    "fee_question": ("what is this fee", "why was i charged", "explain the monthly cost", "fee for a transfer abroad"),
    "login_problem": ("the app says wrong password", "cannot sign in", "no code by text", "i am locked out"),
}
PLACES = ("in Leeds", "since the update", "on the train", "after lunch", "from my new phone")
DIRTY = (
    "my card is gone in Leeds,card_lost\n"  # exact duplicate
    ",login_problem\n"  # empty
    "<p>hello &amp; <b>what is this fee</b> for my savings,fee_question\n"
    "call me on +44 20 7946 0958 about the lost card,card_lost\n"
)


def csv() -> str:
    rows = [f"{text} {place},{label}\n" for label, texts in TEXTS.items() for text in texts for place in PLACES]
    return "message,intent\n" + "".join(rows) + DIRTY


@pytest.fixture(scope="module")
def project(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "rows.csv").write_text(csv(), encoding="utf-8")
    (folder / "p.yaml").write_text(f"""\
name: small
runs_folder: {folder}/runs
data:
  path: rows.csv
  system: "Answer with one of: {{labels}}"
model: {{name: {tiny("llama", "smollm")}}}
train: {{epochs: 2, batch_size: 8, learning_rate: 1e-2, trackers: [], lora: {{rank: 4}}}}
evaluate: {{latency_requests: 2, resamples: 100}}
""")
    return folder / "p.yaml"


def do(project: Path) -> LoopResult:
    return tuneloop.run(project)


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> LoopResult:
    return do(project)


def test_every_stage_is_complete_and_intact(finished: LoopResult) -> None:
    for name in STAGES:
        out = finished.run.dir(name)
        assert out.complete, name
        assert out.is_intact(), name


def test_ledger_balances(finished: LoopResult) -> None:
    counts = data.load(finished.run.dir("data")).counts
    assert counts["rows_in"] == len(csv().splitlines()) - 1
    assert counts["rows_in"] == counts["kept"] + counts["dropped"]
    assert counts["kept"] == counts["train"] + counts["validation"] + counts["test"]
    assert counts["dropped"] >= 2


def test_training_saw_every_row(finished: LoopResult) -> None:
    counts = data.load(finished.run.dir("data")).counts
    facts = json.loads((finished.run.dir("train") / "train.json").read_text())
    assert facts["rows"] == counts["train"]
    first, *_, last = [m["loss"] for m in finished.run.dir("train").metrics() if "loss" in m]
    assert last < first


def test_every_test_row_is_answered_by_every_model(finished: LoopResult) -> None:
    expected = {r.id for r in data.read_records(finished.run.dir("data").path, "test")}
    for label in ("base", "tuned", "compressed"):
        with (finished.run.dir(f"evaluate-{label}") / "scores.jsonl").open(encoding="utf-8") as file:
            assert {json.loads(line)["id"] for line in file} == expected


def test_there_is_a_verdict(finished: LoopResult) -> None:
    assert finished.verdict is not None
    assert finished.verdict.decision in ("pass", "fail", "undecided")


def test_second_run_reuses_everything(project: Path, finished: LoopResult) -> None:
    before = (finished.run.dir("train") / "bundle/adapter_model.safetensors").stat().st_mtime_ns
    again = do(project)
    assert again.reused == STAGES
    assert (finished.run.dir("train") / "bundle/adapter_model.safetensors").stat().st_mtime_ns == before
    assert again.verdict == finished.verdict


def test_report_stands_alone(finished: LoopResult) -> None:
    assert finished.report is not None
    html = finished.report.read_text(encoding="utf-8")
    assert html.lstrip().lower().startswith("<!doctype html")
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?(?:https?:)?//""", html)
    assert not re.search(r"<script[^>]+src|<link[^>]+stylesheet|@import|url\(\s*[\"']?https?:", html)
    assert finished.verdict is not None
    assert finished.verdict.decision in html
    assert finished.summary


def trace(run: Run, row: str, *words: str) -> str:
    done = CliRunner().invoke(app, ["trace", row, "--run", str(run.root), *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_trace_follows_a_test_row(finished: LoopResult) -> None:
    record = data.read_records(finished.run.dir("data").path, "test")[0]
    text = trace(finished.run, record.id)
    assert "kept, test split" in text
    assert text.count("answered") == 3
    found = json.loads(trace(finished.run, record.origin, "--json"))
    assert found["record"]["id"] == record.id
    assert set(found["answers"]) == {"base", "tuned", "compressed"}
    assert found["training_steps"] == []


def test_trace_follows_a_training_row_into_its_steps(finished: LoopResult) -> None:
    record = data.read_records(finished.run.dir("data").path, "train")[0]
    found = json.loads(trace(finished.run, record.id, "--json"))
    assert len(found["training_steps"]) == 2  # one an epoch
    assert "trained in step" in trace(finished.run, record.id)


def test_explain_says_why_a_row_was_dropped(project: Path, finished: LoopResult) -> None:
    line = csv().splitlines().index(",login_problem") + 1
    done = CliRunner().invoke(app, ["data", str(project), "--explain", f"rows.csv:{line}"])
    assert done.exit_code == 0, done.output
    assert "dropped by empty" in done.stdout


def test_redaction_reaches_every_artifact_of_training(finished: LoopResult) -> None:
    for split in SPLITS:
        assert "7946" not in (finished.run.dir("data") / f"{split}.jsonl").read_text(encoding="utf-8")
