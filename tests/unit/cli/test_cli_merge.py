"""``tuneloop merge``, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("peft")


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuneloop", "merge", *words],
        capture_output=True, text=True, check=False, cwd=folder, timeout=120, stdin=subprocess.DEVNULL,
        env=os.environ | {"TUNELOOP_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"},
    )  # fmt: skip


def test_an_adapter_becomes_a_model_beside_it(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from tuneloop.models import load_model, load_tokenizer, open_bundle, save_adapter_bundle
    from tuneloop.train import TrainConfig
    from tuneloop.train.methods import METHODS

    base = Path(shutil.copytree(tiny("deepseek_v3", "chatml"), tmp_path / "base"))
    save_adapter_bundle(
        tmp_path / "adapter", METHODS["lora"](load_model(base), TrainConfig()), load_tokenizer(base), base, {}
    )
    done = cli(tmp_path, "adapter", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["folder"], said["dtype"], said["parity"]["ok"]) == ("adapter-merged", "float32", True)
    assert open_bundle(tmp_path / "adapter-merged").kind == "model"


def test_what_is_no_adapter_is_two_lines(tiny: Callable[..., Path], tmp_path: Path) -> None:
    done = cli(tmp_path, str(tiny("llama", "chatml")))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines()[0].endswith("nothing to merge: this is a bundle of kind 'model'")
    assert done.stderr.splitlines()[1].startswith("hint: ")
