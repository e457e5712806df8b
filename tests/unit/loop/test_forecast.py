"""What a dry run says: which stages would be reused, continued or done, without touching anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tuneloop.errors import ConfigError, DataError
from tuneloop.loop import STAGES, Loop, load_project
from tuneloop.rundir import Run, RunDir


@pytest.fixture
def project(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    rows = "".join(
        f"question {word} on {label},{label}\n" for label in ("a", "b") for word in ("one", "two", "three", "four")
    )
    (tmp_path / "rows.csv").write_text("message,intent\n" + rows)
    (tmp_path / "p.yaml").write_text(
        f"name: p\nruns_folder: {tmp_path}/runs\ndata: {{path: rows.csv, steps: [repair, empty]}}\nmodel: {{name: {tiny()}}}\n"
    )
    return tmp_path / "p.yaml"


def loop(project: Path, *overrides: str) -> Loop:
    return Loop(load_project(project, overrides).value)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_all_would_run_at_first_and_nothing_is_written(project: Path) -> None:
    assert loop(project).forecast() == dict.fromkeys(STAGES, "run")
    assert not (project.parent / "runs").exists()


def test_what_was_done_would_be_reused(project: Path) -> None:
    loop(project).run("data")
    before = everything(project.parent)
    plan = loop(project).forecast("train")
    assert plan == {"data": "reuse", "train": "run"}
    assert everything(project.parent) == before


def test_other_settings_would_run_and_the_old_ones_come_back_from_history(project: Path) -> None:
    loop(project).run("data")
    loop(project, "data.train_ratio=0.5", "data.validation_ratio=0.25", "data.test_ratio=0.25").run("data")
    assert loop(project, "seed=3").forecast("data") == {"data": "run"}
    assert loop(project).forecast("data") == {"data": "reuse"}


def test_an_interrupted_stage_would_go_on(project: Path) -> None:
    loop(project).run("data")
    out = RunDir(project.parent / "runs" / "p" / "data")
    out.write_json("manifest.json", out.manifest | {"status": "running"})
    assert loop(project).forecast("train") == {"data": "continue", "train": "run"}


def test_a_missing_source_is_said(project: Path) -> None:
    (project.parent / "rows.csv").unlink()
    with pytest.raises(DataError, match=r"rows\.csv"):
        loop(project).forecast()


def test_a_model_that_is_not_here_is_not_fetched(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    loop(project).run("data")
    plan = loop(project, "model.name=smollm2-135m-instruct").forecast("train")
    assert plan == {"data": "reuse", "train": "run"}


@pytest.mark.parametrize(
    ("off", "until"),
    [
        ("compress", "compress"),
        ("compress", "evaluate-compressed"),
        ("compress", "compare-compressed"),
        ("serve", "serve"),
    ],
)
def test_a_stage_that_is_switched_off_is_refused(project: Path, off: str, until: str) -> None:
    with pytest.raises(ConfigError, match="switched off") as caught:
        loop(project, f"{off}=null").planned(until)
    assert f"{off}: in the YAML" in str(caught.value.hint)


def test_without_compression_the_tuned_model_is_what_is_served(project: Path) -> None:
    names = loop(project, "compress=null").planned("serve")
    assert names == ["data", "train", "evaluate-tuned", "serve"]


def test_find_looks_in_place_and_in_history(project: Path) -> None:
    first = loop(project)
    first.run("data")
    config, inputs, *_ = first._plan("data")
    run = Run(project.parent / "runs" / "p")
    found = run.find("data", config, inputs)
    assert found is not None
    assert found.path == run.root / "data"
    assert run.find("data", config, inputs | {"more": "x"}) is None
