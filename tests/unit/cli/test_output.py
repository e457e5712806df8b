"""What commands print, and what happens when something goes wrong while they do."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tuneloop.cli import stages
from tuneloop.cli.options import to_json
from tuneloop.compare import CompareConfig, Comparison
from tuneloop.compare import run as compare
from tuneloop.errors import GateFailed
from tuneloop.evaluate import Evaluation
from tuneloop.loop import LoopResult
from tuneloop.rundir import Run, RunDir
from tuneloop.types import Interval, Score


@dataclass
class _Thing:
    path: Path
    values: tuple[float, ...]


def test_to_json_makes_json_of_anything() -> None:
    found = to_json({1: _Thing(Path("a/b"), (1.5, math.nan, math.inf)), "set": {3}})
    assert found == {"1": {"path": "a/b", "values": [1.5, None, None]}, "set": [3]}
    json.dumps(found, allow_nan=False)


def comparison(folder: Path, wins: int, n: int) -> Comparison:
    before = [Score(str(i), "accuracy", 0.0) for i in range(n)]
    after = [Score(str(i), "accuracy", float(i < wins)) for i in range(n)]
    return compare(CompareConfig(), before, after, RunDir(folder))


def result(folder: Path, found: Comparison | None) -> LoopResult:
    return LoopResult(Run(folder), found.verdict if found else None, None, (), ())


def test_a_verdict_that_passes_opens_the_gate(tmp_path: Path) -> None:
    stages._judge(result(tmp_path, comparison(tmp_path, 50, 50)), gate=True)


@pytest.mark.parametrize(("wins", "n", "says"), [(0, 50, "fail|undecided"), (5, 5, "undecided")])
def test_any_other_verdict_closes_it(tmp_path: Path, wins: int, n: int, says: str) -> None:
    found = result(tmp_path, comparison(tmp_path, wins, n))
    stages._judge(found, gate=False)
    with pytest.raises(GateFailed, match=says) as caught:
        stages._judge(found, gate=True)
    assert caught.value.exit_code == 8
    assert caught.value.hint is not None


def test_no_verdict_closes_the_gate_too(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="missing"):
        stages._judge(result(tmp_path, None), gate=True)


def test_a_comparison_in_words(tmp_path: Path) -> None:
    first, counts, verdict = stages._about_comparison(comparison(tmp_path, 40, 50))
    assert "tuned minus base +0.8000" in first
    assert counts.startswith("40 won, 10 tied, 0 lost, p = ")
    assert verdict.startswith("verdict pass: ")


def test_an_evaluation_in_words() -> None:
    found = Evaluation(
        subject={},
        n=4,
        metrics={"accuracy": Interval(0.75, 0.3, 0.95, 4, "wilson")},
        skipped={"bleu4": "answers are classes"},
    )
    measured, skipped = stages._about_evaluation(found)
    assert measured.split() == ["accuracy", "0.7500", "[0.3000,", "0.9500]", "n=4", "wilson"]
    assert skipped.endswith("not measured: answers are classes")


def call(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    process = call(
        "import sys; sys.stdin.read(); sys.argv = ['tuneloop', '--help']; from tuneloop.cli import main; main()"
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()  # only now it begins to print
    with process.stderr:
        assert process.stderr.read() == ""
    process.wait(60)


def test_our_own_bug_keeps_its_traceback_and_asks_for_a_report() -> None:
    code = (
        "import sys; sys.argv = ['tuneloop', 'runs']\n"
        "import tuneloop.cli.runs as r\n"
        "def show(*a, **k): raise ZeroDivisionError('planted')\n"
        "r.show = show\n"
        "from tuneloop.cli import main; main()"
    )
    _, errors = (process := call(code)).communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in errors
    assert "ZeroDivisionError: planted" in errors
    assert errors.strip().splitlines()[-1].startswith("error: this is a bug in tuneloop")
