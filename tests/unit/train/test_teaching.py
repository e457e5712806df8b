"""A distillation from records to bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tuneloop import train
from tuneloop.errors import ModelError
from tuneloop.loop import Loop, load_project
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig
from tuneloop.types import Message, Record


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, n in (("train", 12), ("validation", 4)):
        rows = [Record(f"{split}{i}", (Message("user", f"q {i}"), Message("assistant", f"a {i}"))) for i in range(n)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in rows))
    return folder


def run(folder: Path, student: Path, records: Path, teacher: Path | None, **more: Any) -> train.TrainResult:
    out = RunDir(folder)
    out.path.mkdir()
    config = TrainConfig(
        **({"method": "full", "objective": "distil", "distil": {"teacher": "t", "alpha": 1.0, "temperature": 1.0},
            "epochs": 3, "learning_rate": 1e-2, "trackers": ()} | more)
    )  # type: ignore[arg-type]  # fmt: skip
    return train.run(config, student, records, out, teacher=teacher)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    tiny: Callable[..., Path], records: Path, tmp_path: Path
) -> None:
    """Looked at before the first update: Adam turns even gradients of rounding errors into whole steps."""
    same = tiny("llama", "smollm")
    assert run(tmp_path / "out", same, records, same, max_steps=1).loss == pytest.approx(0.0, abs=1e-6)


def test_the_distance_to_the_teacher_falls(tiny: Callable[..., Path], records: Path, tmp_path: Path) -> None:
    student, teacher = tiny("llama", "smollm"), tiny("llama", "smollm", seed=5)
    done = run(tmp_path / "out", student, records, teacher, epochs=10)
    first = next(m["loss"] for m in RunDir(tmp_path / "out").metrics() if "loss" in m)
    assert 0 < done.loss < 0.5 * first
    assert (done.rows_in, done.rows, done.examples, done.left_out) == (12, 12, 12, {})


def test_a_cached_teacher_trains_nearly_the_same_student(
    tiny: Callable[..., Path], records: Path, tmp_path: Path
) -> None:
    """With all tokens but one there is nothing left to lose but the order of float32 sums."""
    student, teacher = tiny("llama", "smollm"), tiny("llama", "smollm", seed=5)
    distil = {"teacher": "t", "alpha": 1.0, "temperature": 1.0}
    live = run(tmp_path / "live", student, records, teacher, distil=distil)
    cached = run(tmp_path / "cached", student, records, teacher, distil=distil | {"top_k": 10_000})
    assert cached.loss == pytest.approx(live.loss, rel=1e-3)
    assert cached.validation_loss == pytest.approx(live.validation_loss, rel=1e-3)


def test_a_teacher_of_another_family_is_refused(tiny: Callable[..., Path], records: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="different vocabularies"):
        run(tmp_path / "out", tiny("llama", "smollm"), records, tiny("llama", "llama3"))


def test_without_a_teacher_nothing_is_distilled(tiny: Callable[..., Path], records: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no teacher"):
        run(tmp_path / "out", tiny("llama", "smollm"), records, None)


def test_the_teacher_is_an_input_of_the_stage_and_relative_to_the_file(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("message,intent\na,b\n")
    (tmp_path / "p.yaml").write_text(
        f"name: p\nruns_folder: {tmp_path}/runs\ndata: {{path: rows.csv}}\nmodel: {{name: {tiny()}}}\n"
        "train: {objective: distil, distil: {teacher: ./teacher}}\n"
    )
    inputs = []
    for seed in (1, 2):
        (tmp_path / "teacher").unlink(missing_ok=True)
        (tmp_path / "teacher").symlink_to(tiny("llama", "smollm", seed=seed))
        inputs.append(Loop(load_project(tmp_path / "p.yaml").value)._train()[1])
    assert inputs[0].keys() == inputs[1].keys() == {"data", "model", "seed", "teacher"}
    assert {k for k in inputs[0] if inputs[0][k] != inputs[1][k]} == {"teacher"}


def test_pretraining_packs_texts_and_trains_all_of_them(tiny: Callable[..., Path], tmp_path: Path) -> None:
    records = tmp_path / "data"
    records.mkdir()
    texts = [Record(f"t{i}", (Message("assistant", "my card is gone " * (1 + i % 7)),)) for i in range(20)]
    for split, rows in (("train", texts), ("validation", texts[:2])):
        (records / f"{split}.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in rows))
    torch.manual_seed(0)
    done = run(
        tmp_path / "out", tiny("llama", "smollm"), records, None,
        objective="pretrain", distil=None, max_length_tokens=32, batch_size=2, epochs=1,
    )  # fmt: skip
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    rows_a_pass = [len(micro) for step in plan["stages"][0]["steps"] for micro in step]
    assert sum(rows_a_pass) == done.examples == len(plan["ids"]) > done.rows == done.rows_in == 20
    assert max(rows_a_pass) > 2
