"""The run directory: nothing is lost, nothing is done twice, nothing damaged is trusted."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuneloop import rundir
from tuneloop.config import Config
from tuneloop.errors import DataError, ResourceError
from tuneloop.rundir import METRICS, Run, RunDir, read_json, write_atomic


class Settings(Config):
    size: int = 1
    """How much is written."""


class Stage:
    """A stage that counts how often it works."""

    def __init__(self, run: Run) -> None:
        self.run, self.worked, self.broken = run, 0, False

    def work(self, out: RunDir) -> str:
        self.worked += 1
        out.write_text("part.txt", "half")
        if self.broken:
            raise KeyboardInterrupt
        out.write_text("sub/whole.txt", f"whole {self.worked}")
        return f"whole {self.worked}"

    def __call__(self, size: int = 1, **inputs: str) -> tuple[str, bool]:
        return self.run.stage(
            "train", Settings(size=size), inputs, self.work, lambda out: (out / "sub/whole.txt").read_text()
        )


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(Run(tmp_path / "run"))


def test_write_atomic_makes_folders_and_leaves_no_rest(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a/b/c.txt", "é")
    assert (tmp_path / "a/b/c.txt").read_bytes() == b"\xc3\xa9"
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["c.txt"]


@pytest.mark.parametrize("broken", ["fsync", "rename"])
def test_write_atomic_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if broken == "fsync":
        monkeypatch.setattr(rundir.os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ResourceError, match="the disk is full") as caught:
        write_atomic(path, "new")
    assert caught.value.where == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("path", ["disk", "disk/file", "disk/no/such/file"])
def test_a_full_disk_is_told_with_the_space_of_the_disk_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """``disk`` is where another file system is mounted: its parent's has all the space in the world."""
    (tmp_path / "disk").mkdir()
    real, seen = rundir.shutil.disk_usage, []
    monkeypatch.setattr(rundir.shutil, "disk_usage", lambda asked: seen.append(asked) or real(asked))
    rundir.disk_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path / path)
    assert seen == [tmp_path / "disk"]


def test_a_file_that_is_gone_is_not_told_as_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "input").read_bytes()
    known = rundir.disk_error(caught.value, tmp_path)
    assert (known.what, known.where) == ("a file or its folder is gone", str(tmp_path / "input"))


def test_read_json_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_unchanged_stage_is_reused(stage: Stage) -> None:
    assert stage() == ("whole 1", False)
    assert stage() == ("whole 1", True)
    assert stage.worked == 1


@pytest.mark.parametrize("change", [{"size": 2}, {"data": "abc"}])
def test_changed_settings_or_inputs_run_again(stage: Stage, change: dict[str, int | str]) -> None:
    stage()
    assert stage(**change) == ("whole 2", False)  # type: ignore[arg-type]


def test_another_version_runs_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage()
    monkeypatch.setattr("tuneloop.__version__", "99.0")
    assert stage() == ("whole 2", False)


def test_going_back_is_free(stage: Stage) -> None:
    stage(1)
    stage(2)
    assert stage(1) == ("whole 1", True)
    assert stage(2) == ("whole 2", True)
    assert stage.worked == 2
    assert len(list((stage.run.root / "history").iterdir())) == 1


@pytest.mark.parametrize("how", ["changed", "removed", "same size"])
def test_damaged_output_is_done_again(stage: Stage, how: str) -> None:
    stage()
    file = stage.run.dir("train") / "sub/whole.txt"
    if how == "removed":
        file.unlink()
    else:
        file.write_text("WHOLE 1" if how == "same size" else "something else")
    assert stage() == ("whole 2", False)
    assert stage() == ("whole 2", True)
    assert any("damaged" in p.name for p in (stage.run.root / "history").iterdir())


def test_interrupted_stage_continues_in_its_folder(stage: Stage) -> None:
    stage.broken = True
    with pytest.raises(KeyboardInterrupt):
        stage()
    out = stage.run.dir("train")
    assert out.manifest["status"] == "running"
    (out / "checkpoint").write_text("step 5")
    stage.broken = False
    assert stage() == ("whole 2", False)
    assert (out / "checkpoint").read_text() == "step 5"


def test_interrupted_stage_comes_back_from_history(stage: Stage) -> None:
    stage.broken = True
    with pytest.raises(KeyboardInterrupt):
        stage(1)
    (stage.run.dir("train") / "checkpoint").write_text("step 5")
    stage.broken = False
    stage(2)
    stage(1)
    assert (stage.run.dir("train") / "checkpoint").read_text() == "step 5"


def test_only_an_unfinished_stage_says_why_it_starts_anew(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.broken = True
    with pytest.raises(KeyboardInterrupt):
        stage(model="a")
    write_atomic(stage.run.dir("train") / "checkpoints/step-5/weights", "9")
    stage.broken = False
    stage(model="b")
    assert "settings changed: another model; starting anew" in capsys.readouterr().err
    stage(model="c")  # the one before is finished
    assert capsys.readouterr().err == ""


def test_settings_that_changed_are_named_with_both_values(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.broken = True
    with pytest.raises(KeyboardInterrupt):
        stage(1)
    write_atomic(stage.run.dir("train") / "checkpoints/step-5/weights", "9")
    with pytest.raises(KeyboardInterrupt):
        stage(2)
    kept = next((stage.run.root / "history").iterdir())
    assert capsys.readouterr().err == (
        f"settings changed: train.size 1 -> 2; starting anew, the unfinished run is kept in {kept}\n"
    )
    assert (kept / "checkpoints/step-5/weights").read_text() == "9"


def test_checkpoints_stay_until_everything_of_the_stage_is_on_the_disk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the result and the manifest must not cost the training; one in the removal must leave nothing."""
    work, kept = stage.work, stage.run.dir("train") / "checkpoints/step-1/weights"

    def trained(out: RunDir) -> str:
        out.write_text("checkpoints/step-1/weights", "9")
        return work(out)

    def killed(*_: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "work", trained)
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "output_hashes", killed)
        with pytest.raises(KeyboardInterrupt):
            stage()
    assert kept.exists()
    with monkeypatch.context() as patch:
        patch.setattr(rundir.shutil, "rmtree", lambda *_, **__: None)
        assert stage() == ("whole 2", False)
    assert kept.exists()
    assert stage() == ("whole 2", True)
    assert not kept.parent.parent.exists()


def test_folder_without_a_manifest_is_kept_aside(stage: Stage) -> None:
    out = stage.run.dir("train")
    write_atomic(out / "mine.txt", "my notes")
    stage()
    assert not (out / "mine.txt").exists()
    assert [p.read_text() for p in stage.run.root.glob("history/*/mine.txt")] == ["my notes"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"status": "complete"}'])
def test_broken_manifest_is_not_trusted(stage: Stage, text: str) -> None:
    stage()
    (stage.run.dir("train") / "manifest.json").write_text(text)
    assert stage() == ("whole 2", False)


def test_manifest_says_what_was_done(stage: Stage) -> None:
    stage(data="abc")
    manifest = stage.run.dir("train").manifest
    assert manifest["inputs"] == {"data": "abc"}
    assert sorted(manifest["outputs"]) == ["part.txt", "sub/whole.txt"]
    assert (stage.run.dir("train") / "config.yaml").read_text() == "size: 1\n"


def test_fingerprint_leaves_logs_and_reports_out(stage: Stage) -> None:
    stage()
    out = stage.run.dir("train")
    before = out.fingerprint
    out.write_json("manifest.json", out.manifest | {"outputs": out.manifest["outputs"] | {
        METRICS: {"bytes": 1, "sha256": "x"}, "report.html": {"bytes": 1, "sha256": "y"}}})  # fmt: skip
    assert out.fingerprint == before
    out.write_json("manifest.json", out.manifest | {"outputs": {"part.txt": {"bytes": 4, "sha256": "other"}}})
    assert out.fingerprint != before


def test_lock_refuses_a_second_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tuneloop.rundir import Run; from tuneloop.errors import *\n"
        "try:\n    with Run(Path(sys.argv[1])).lock(): print('got it')\n"
        "except ResourceError as error: print(error); raise SystemExit(5)"
    )

    def try_it() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)

    with Run(tmp_path).lock():
        refused = try_it()
        assert refused.returncode == 5
        assert f"another tuneloop (pid {os.getpid()}) is running this run" in refused.stdout
        assert len(refused.stdout.splitlines()) == 2
    assert try_it().stdout == "got it\n"


def test_metrics_pass_over_half_a_last_line(tmp_path: Path) -> None:
    out = RunDir(tmp_path)
    assert list(out.metrics()) == []
    out.log_metrics(step=1, loss=2.5)
    out.log_metrics(step=2, loss=2.0)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 3, "lo')
    assert [m["step"] for m in out.metrics()] == [1, 2]


def test_metrics_survive_a_cut_in_the_middle_of_a_character(tmp_path: Path) -> None:
    line = json.dumps({"note": "é"}, ensure_ascii=False).encode()
    (tmp_path / METRICS).write_bytes(b'{"step": 1}\n' + line[: line.index(b"\xc3") + 1])
    assert list(RunDir(tmp_path).metrics()) == [{"step": 1}]


def test_line_after_half_a_line_is_not_lost(tmp_path: Path) -> None:
    out = RunDir(tmp_path)
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2, "lo')
    out.log_metrics(step=3)
    assert [m["step"] for m in out.metrics()] == [1, 3]


def test_what_a_killed_process_was_writing_is_removed_when_the_stage_goes_on(tmp_path: Path) -> None:
    run, left, kept = Run(tmp_path), tmp_path / "work" / ".ledger.parquet.4711.tmp", tmp_path / "work" / ".notes.tmp"

    def killed(out: RunDir) -> None:
        left.write_bytes(b"half")
        kept.write_bytes(b"a user's")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("work", Settings(), {}, killed, lambda out: None)
    assert left.exists()
    run.stage("work", Settings(), {}, lambda out: None, lambda out: None)
    assert not left.exists()
    assert kept.exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def stopped() -> None:
        with rundir.replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (path.read_bytes(), [f.name for f in tmp_path.iterdir()]) == (b"old", ["a.bin"])
    with rundir.replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert (path.read_bytes(), [f.name for f in tmp_path.iterdir()]) == (b"new", ["a.bin"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_under_torch_is_told_as_one() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.save({"weights": torch.zeros(1 << 20)}, "/dev/full")
    assert rundir.disk_error_in(caught.value, Path("/dev/full")) is not None
