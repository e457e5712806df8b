"""The data stage is killed again and again, cut into other parts, given to other executors: the bytes stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tuneloop.data import DataConfig, run
from tuneloop.rundir import RunDir

CODE = """
import json, pathlib, sys
from tuneloop.data import DataConfig, run
from tuneloop.rundir import RunDir

if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    out = RunDir(pathlib.Path(spec.pop("out")))
    out.path.mkdir(exist_ok=True)
    run(DataConfig(**spec), out)
"""


def raw(path: Path, rows: int) -> Path:
    """Rows of every fate: clean, duplicate, edited, with markup and personal data, empty, broken."""
    pick = random.Random(5)
    words = [f"w{pick.randrange(10**6)}" for _ in range(400)]
    lines: list[str] = []
    for k in range(rows):
        text = " ".join(pick.choices(words, k=12))
        if lines and k % 9 == 0:
            lines.append(pick.choice(lines))
            continue
        row = {"prompt": f"<b>{text}</b>" if k % 7 == 0 else text, "response": f"call 07700 900{k % 1000:03}"}
        line = json.dumps(row if k % 31 else {"prompt": "", "response": "x"})
        lines.append(line[:-3] if k % 101 == 0 else line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def fingerprint(out: Path) -> dict[str, str]:
    """Hash of every output; metrics.jsonl holds times."""
    assert not (out / "tmp").exists()
    files = [p for p in out.iterdir() if p.name != "metrics.jsonl"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def stage(out: Path, **spec: Any) -> dict[str, str]:
    out.mkdir()
    run(DataConfig(**spec), RunDir(out))
    return fingerprint(out)


def killed(tmp_path: Path, spec: dict[str, Any], delays: list[float]) -> int:
    """Run the stage to its end with a SIGKILL after each delay; returns how many of them hit it at work."""
    script = tmp_path / "stage.py"
    script.write_text(CODE)
    hits = 0
    for delay in [*delays, 0.0]:
        process = subprocess.Popen([sys.executable, str(script), json.dumps(spec)], start_new_session=True)
        if delay:
            time.sleep(delay)
            if process.poll() is None:
                hits += 1
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            assert process.wait() == 0
    return hits


def test_killed_at_any_moment_the_same_bytes_come_out(tmp_path: Path) -> None:
    source = raw(tmp_path / "rows.jsonl", 6_000)
    spec: dict[str, Any] = {"sources": str(source), "part_rows": 250}
    clock = time.monotonic()
    whole = stage(tmp_path / "whole", **spec)
    usual = time.monotonic() - clock
    pick = random.Random(0)
    delays = [0.8 + 0.6 * pick.random() * usual for _ in range(4)]

    hits = killed(tmp_path, {**spec, "out": str(tmp_path / "killed")}, delays)

    assert hits >= 2, "the stage was over before it could be killed"
    assert fingerprint(tmp_path / "killed") == whole


def test_the_result_does_not_depend_on_how_rows_are_cut_into_parts(tmp_path: Path) -> None:
    source = raw(tmp_path / "rows.jsonl", 1_000)
    whole = stage(tmp_path / "one", sources=str(source))
    assert stage(tmp_path / "many", sources=str(source), part_rows=77) == whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_the_result_does_not_depend_on_who_does_the_work(tmp_path: Path, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="Ray is an extra")
    source = raw(tmp_path / "rows.jsonl", 1_000)
    whole = stage(tmp_path / "inline", sources=str(source), part_rows=300)
    assert stage(tmp_path / executor, sources=str(source), part_rows=300, executor=executor, workers=2) == whole
