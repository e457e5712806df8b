"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tuneloop
from tuneloop.cli.runs import bundle_of

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
COMMANDS = (
    "run", "data", "train", "evaluate", "compress", "compare", "serve", "chat", "trace", "runs", "doctor", "init", "keys",
    "tokenizer", "audit",
)  # fmt: skip
STAGES = ("run", "data", "train", "evaluate", "compress", "compare")

PROJECT = """\
name: demo
data:
  path: rows.csv
model:
  name: ./model
"""
ROWS = "message,intent\n" + "".join(
    f"{text} {i},{label}\n"
    for label, text in (("card_lost", "my card is gone"), ("fee_question", "what is the fee for transfer"))
    for i in range(8)
)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def call(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from tuneloop.cli import main; main()", *map(str, words)],
            capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120, stdin=subprocess.DEVNULL,
            env=os.environ | {"TUNELOOP_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"} | more,
        )  # fmt: skip

    return call


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "p.yaml").write_text(PROJECT)
    return tmp_path / "p.yaml"


def two_lines(done: subprocess.CompletedProcess[str], code: int) -> list[str]:
    """The error, checked for its form."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    return lines


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, f"{tuneloop.__version__}\n")


def test_help_lists_every_command_and_the_exit_codes(cli: Cli) -> None:
    text = cli("--help").stdout
    assert all(re.search(rf"^\s+{name}\b", text, re.M) for name in COMMANDS)
    assert "Exit codes" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(cli: Cli, name: str) -> None:
    done = cli(name, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert name == "keys" or "Example: " in done.stdout


def test_unknown_command_suggests_the_near_one(cli: Cli) -> None:
    done = cli("trian")
    assert done.returncode == 2
    assert "train" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", STAGES)
def test_dry_run_prints_the_resolved_configuration_and_does_nothing(cli: Cli, project: Path, name: str) -> None:
    done = cli(name, project, "train.epochs=0.5", "train.lr=2e-5", "--dry-run")
    assert done.returncode == 0, done.stderr
    said = yaml.safe_load(done.stdout)
    assert (said["train"]["epochs"], said["train"]["learning_rate"]) == (0.5, 2e-5)
    assert "# stages: data" in done.stdout
    assert "train.lr is read as train.learning_rate" in done.stderr
    assert sorted(p.name for p in project.parent.iterdir()) == ["p.yaml", "rows.csv"]


def test_unknown_key(cli: Cli, project: Path) -> None:
    project.write_text(PROJECT + "train:\n  epoch: 3\n")
    first, hint = two_lines(cli("run", project), 2)
    assert first == f"error: {project}:7: unknown key 'train.epoch'"
    assert hint == "hint: did you mean 'epochs'?"


def test_missing_project(cli: Cli, project: Path) -> None:
    first, hint = two_lines(cli("run", project.with_name("p.yml")), 2)
    assert "no such file" in first
    assert str(project) in hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"message,intent\n", ""),
        (b"\x00\xff\xfe\x00\x01\x02" * 50, ""),
        (b"chosen,rejected\nred,3\nblue,4\n", "column"),
    ],
)
def test_bad_data(cli: Cli, project: Path, content: bytes | None, says: str) -> None:
    rows = project.parent / "rows.csv"
    if content is None:
        rows.unlink()
    else:
        rows.write_bytes(content)
    first, _ = two_lines(cli("data", project, "-q"), 3)
    assert "rows.csv" in first
    assert says in first


def test_column_that_is_not_there(cli: Cli, project: Path) -> None:
    first, hint = two_lines(cli("data", project, "-q", "data.label_column=intnet"), 3)
    assert "intnet" in first
    assert "intent" in hint


def test_unknown_model(cli: Cli, project: Path) -> None:
    done = cli("train", project, "-q", "model.name=deepseek-ai/DeepSeek-R1-8b")
    first, hint = two_lines(done, 4)
    assert "DeepSeek-R1-8b" in first
    assert "DeepSeek-R1-Distill-Llama-8B" in first + hint


def test_data_prints_the_ledger_and_json_is_json(cli: Cli, project: Path) -> None:
    done = cli("data", project, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.match(r"rows: 16 in = \d+ kept \+ \d+ dropped", done.stdout)
    counts = json.loads(cli("data", project, "--json").stdout)["counts"]
    assert counts["rows_in"] == 16 == counts["kept"] + counts["dropped"]


def test_data_needs_no_model_and_training_says_that_it_does(cli: Cli, project: Path) -> None:
    project.write_text("name: demo\ndata: {sources: rows.csv}\n")
    assert cli("data", project).returncode == 0
    first, hint = two_lines(cli("train", project, "-q"), 2)
    assert "no model is named" in first
    assert "add model:" in hint


def test_data_explain(cli: Cli, project: Path) -> None:
    done = cli("data", project, "--explain", "rows.csv:2")
    assert done.returncode == 0, done.stderr
    assert "my card is gone 0" in done.stdout
    found = json.loads(cli("data", project, "--explain", "rows.csv:2", "--json").stdout)
    assert found["origin"].endswith("rows.csv:2")
    two_lines(cli("data", project, "--explain", "rows.csv:999"), 3)


def test_init_writes_a_project_that_resolves_and_reads(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", "my project").returncode == 0
    path = tmp_path / "my project" / "tuneloop.yaml"
    done = cli("run", path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["name"] == "my-project"
    assert cli("data", path, "-q").returncode == 0
    assert "a project already" in two_lines(cli("init", "my project"), 2)[0]


@pytest.mark.parametrize("name", ["日本", "-x", ".hidden", "a: b"])
def test_init_with_an_odd_name_still_resolves(cli: Cli, tmp_path: Path, name: str) -> None:
    assert cli("init", "--", name).returncode == 0
    done = cli("run", "--dry-run", "--", tmp_path / name / "tuneloop.yaml")
    assert done.returncode == 0, done.stderr


def test_runs_of_an_empty_folder(cli: Cli) -> None:
    assert "no runs in runs/ yet" in cli("runs").stdout
    assert json.loads(cli("runs", "--json").stdout) == []


def test_runs_lists_what_is_done(cli: Cli, project: Path) -> None:
    cli("data", project, "-q")
    (row,) = json.loads(cli("runs", "--json").stdout)
    assert (row["name"], row["stages"]) == ("demo", {"data": "complete"})
    assert "demo" in cli("runs").stdout


@pytest.mark.parametrize("words", [("serve", "nothing"), ("chat", "nothing"), ("trace", "x", "--run", "nothing")])
def test_no_such_run(cli: Cli, words: tuple[str, ...]) -> None:
    assert "there is no run 'nothing'" in two_lines(cli(*words), 2)[0]


def test_run_without_a_training_cannot_be_served(cli: Cli, project: Path) -> None:
    cli("data", project, "-q")
    assert "no finished training" in two_lines(cli("serve", "demo"), 2)[0]


def test_serve_takes_settings_from_the_run_a_file_and_the_command_line(cli: Cli, project: Path, tmp_path: Path) -> None:
    cli("data", project, "-q")
    done = cli("serve", "demo", "--dry-run", "serve.filters.personal_data.output=mask", "--port", "8001")
    found = yaml.safe_load(done.stdout)
    assert (found["model_name"], found["port"], found["filters"]["personal_data"]["output"]) == ("demo", 8001, "mask")
    (tmp_path / "gateway.yaml").write_text("arm: canary\nlimits: {tokens_per_day: 5}\n")
    found = yaml.safe_load(cli("serve", "demo", "--dry-run", "--config", tmp_path / "gateway.yaml", "arm=b").stdout)
    assert (found["arm"], found["limits"]["tokens_per_day"]) == ("b", 5)


def test_a_folder_with_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert bundle_of(str(tmp_path)) == tmp_path


def test_a_wrong_setting_of_serve_is_named(cli: Cli) -> None:
    assert two_lines(cli("serve", "demo", "prot=1"), 2)[1] == "hint: did you mean 'port'?"


def test_doctor_json(cli: Cli) -> None:
    found = json.loads(cli("doctor", "--json").stdout)
    assert {"tuneloop", "python", "system", "cores", "memory_bytes", "free_bytes", "gpus", "home", "models", "missing",
            "sources", "training"} <= found.keys()  # fmt: skip
    assert not any(found["sources"].values())
    assert all(row["full"] > row["lora"] > 0 for row in found["training"])


def test_doctor_for_people(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    assert "smollm2-135m-instruct" in done.stdout


def test_keys(cli: Cli, tmp_path: Path) -> None:
    made = cli("keys", "create", "app", "--scope", "chat")
    assert re.fullmatch(r"tl-\S+\n", made.stdout)
    (row,) = json.loads(cli("keys", "list", "--json").stdout)
    assert (row["name"], row["active"]) == ("app", True)
    rotated = cli("keys", "rotate", row["id"], "--grace-h", "0")
    assert rotated.stdout.startswith("tl-")
    assert rotated.stdout != made.stdout
    assert cli("keys", "revoke", row["id"]).returncode == 0
    two_lines(cli("keys", "rotate", row["id"]), 2)
    assert json.loads(cli("keys", "list", "--json").stdout)[0]["active"] is False
    two_lines(cli("keys", "revoke", "none"), 2)
    two_lines(cli("keys", "create", "app", "--scope", "everything"), 2)


def test_audit(cli: Cli, tmp_path: Path) -> None:
    first = b'{"event":"opened","prev":"' + b"0" * 64 + b'"}'
    last = b'{"event":"closed","prev":"' + hashlib.sha256(first).hexdigest().encode() + b'"}'
    path = tmp_path / "audit.jsonl"
    path.write_bytes(first + b"\n" + last + b"\n")
    done = cli("audit", path)
    assert done.stdout == f"2 lines, unbroken; last hash {hashlib.sha256(last).hexdigest()}\n"
    assert json.loads(cli("audit", path, "--json").stdout)["lines"] == 2
    two_lines(cli("audit", path, "--last-hash", "0" * 64), 3)
    path.write_bytes(first.replace(b"opened", b"0pened") + b"\n" + last + b"\n")
    assert "audit.jsonl:2: " in two_lines(cli("audit", path), 3)[0]


def test_two_trials_of_a_training_at_once_are_refused(cli: Cli, project: Path) -> None:
    what, hint = two_lines(cli("train", project, "--rehearse", "--find-learning-rate"), 2)
    assert "two different trials" in what
    assert "then rehearse" in hint
