"""``tuneloop tokenizer``, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuneloop", "tokenizer", *words],
        capture_output=True, text=True, check=False, cwd=folder, timeout=120, stdin=subprocess.DEVNULL,
        env=os.environ | {"TUNELOOP_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"where is my card number {i * 7919},{'xy'[i % 2]}\n" for i in range(80))
    (tmp_path / "rows.csv").write_text("message,intent\n" + rows)
    (tmp_path / "p.yaml").write_text("name: demo\ndata:\n  path: rows.csv\n  steps: []\nmodel:\n  name: ./model\n")
    return tmp_path


def test_of_a_project_it_reads_the_cleaned_rows_and_is_reused(folder: Path) -> None:
    done = cli(folder, "p.yaml", "tokenizer.vocab_size=300", "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["tokenizer"]["vocab_size"] == 300
    assert (folder / "runs/demo/tokenizer/tokenizer.json").is_file()
    assert not first["reused"]
    assert json.loads(cli(folder, "p.yaml", "tokenizer.vocab_size=300", "--json").stdout)["reused"]


def test_of_files_it_prints_how_well_it_fits(folder: Path) -> None:
    done = cli(folder, "--from", "rows.csv", "--out", "made", "tokenizer.vocab_size=300")
    assert done.returncode == 0, done.stderr
    assert "tokens a word" in done.stdout
    assert (folder / "made/tokenizer/report.html").is_file()


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    for words in (("p.yaml",), ("--from", "rows.csv")):
        done = cli(folder, *words, "tokenizer.vocab_size=300", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert "vocab_size: 300" in done.stdout
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("words", [(), ("p.yaml", "--from", "rows.csv"), ("p.yaml", "q.yaml")])
def test_a_project_or_files_but_not_both(folder: Path, words: tuple[str, ...]) -> None:
    done = cli(folder, *words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
