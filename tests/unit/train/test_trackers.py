"""The boards. W&B and MLflow are real where they are installed (pip install 'tuneloop[wandb,mlflow]'); a stand-in of each,
with the calls that Accelerate makes, is always there."""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.train.runs import settings
from tuneloop.errors import MissingExtraError
from tuneloop.rundir import RunDir
from tuneloop.train.trackers import trackers

LOGGED = {"loss": 0.5, "learning_rate": 1e-3}


def run_and_resume(out: Path, name: str) -> None:
    """Five steps and a validation; killed; continued from a checkpoint after step 3 up to step 7."""
    out.mkdir(parents=True)
    config = settings(trackers=(name,))
    with trackers(RunDir(out), config, 0) as track:
        for step in range(1, 6):
            track(step, {"loss": 1.0 / step, "learning_rate": 1e-3})
        track(5, {"validation_loss": 0.25})
    with trackers(RunDir(out), config, 3) as track:
        for step in range(4, 8):
            track(step, {"loss": 1.0 / step, "learning_rate": 1e-3})


WANTED = [(step, pytest.approx(1.0 / step)) for step in range(1, 8)]


def test_tensorboard_has_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_and_resume(tmp_path / "run/train", "tensorboard")
    board = EventAccumulator(str(tmp_path / "run/train/tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("train/loss")] == WANTED


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_board_that_is_not_installed_names_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as error, trackers(RunDir(tmp_path), settings(trackers=(name,)), 0):
        pass
    assert error.value.hint == f"pip install 'tuneloop[{name}]'"


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What Accelerate calls of W&B."""
    seen = SimpleNamespace(begun=[], logged=[], config=[], finished=0)
    module: Any = ModuleType("wandb")

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            seen.logged.append((step, values))

        def finish(self) -> None:
            seen.finished += 1

    def init(**given: Any) -> Run:
        seen.begun.append(given)
        return Run()

    module.init = init
    module.config = SimpleNamespace(update=lambda values, **_: seen.config.append(values))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return seen


def test_wandb_stays_offline_and_has_each_step_once_on_one_board(wandb: SimpleNamespace, tmp_path: Path) -> None:
    run_and_resume(tmp_path / "run/train", "wandb")
    first, second = wandb.begun
    assert (first["mode"], first["project"], first["name"]) == ("offline", "tuneloop", "run")
    assert first["id"] == second["id"]
    assert [(s, v["train/loss"]) for s, v in wandb.logged if "train/loss" in v] == WANTED
    assert (5, {"train/validation_loss": 0.25}) in wandb.logged
    assert wandb.finished == 2


def test_the_settings_of_a_run_are_on_the_board_once(wandb: SimpleNamespace, tmp_path: Path) -> None:
    run_and_resume(tmp_path / "run/train", "wandb")
    (said,) = wandb.config
    assert (said["lora.rank"], said["optimizer.schedule"], said["trackers"]) == (4, "cosine", '["wandb"]')


def test_wandb_goes_online_when_asked(wandb: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "cards")
    run_and_resume(tmp_path / "run/train", "wandb")
    assert {(b["mode"], b["project"], b["resume"]) for b in wandb.begun} == {("online", "cards", "allow")}


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What Accelerate and we call of MLflow."""
    seen = SimpleNamespace(uri=None, runs={}, logged=[], ended=0)
    module: Any = ModuleType("mlflow")

    def start_run(run_id: str | None = None, tags: dict[str, str] | None = None, **_: Any) -> None:
        if run_id is None:
            seen.runs[f"r{len(seen.runs)}"] = dict(tags or {})

    def search_runs(filter_string: str, **_: Any) -> list[Any]:
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=r))
            for r, tags in seen.runs.items()
            if all(f"tags.{k} = '{v}'" == filter_string for k, v in tags.items())
        ]

    module.set_tracking_uri = lambda uri: setattr(seen, "uri", uri)
    module.search_experiments = lambda **_: []
    module.create_experiment = lambda **_: "1"
    module.start_run, module.search_runs = start_run, search_runs
    module.log_metrics = lambda values, step: seen.logged.append((step, values))
    module.log_params = lambda values: None
    module.end_run = lambda: setattr(seen, "ended", seen.ended + 1)
    module.utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return seen


def test_mlflow_stays_in_the_run_and_has_each_step_once_in_one_run(mlflow: SimpleNamespace, tmp_path: Path) -> None:
    run_and_resume(tmp_path / "run/train", "mlflow")
    assert mlflow.uri == f"sqlite:///{tmp_path / 'run/train/mlflow/mlflow.db'}"
    assert len(mlflow.runs) == 1
    assert [(s, v["train/loss"]) for s, v in mlflow.logged if "train/loss" in v] == WANTED
    assert mlflow.ended == 2


def test_a_kill_between_two_metrics_of_one_step_loses_neither(wandb: SimpleNamespace, tmp_path: Path) -> None:
    config = settings(trackers=("wandb",))
    with trackers(RunDir(tmp_path), config, 0) as track:
        track(1, LOGGED)
    with trackers(RunDir(tmp_path), config, 0) as track:
        track(1, LOGGED)
        track(1, {"validation_loss": 0.5})
    assert [v for _, v in wandb.logged] == [
        {"train/loss": 0.5, "train/learning_rate": 1e-3},
        {"train/validation_loss": 0.5},
    ]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto import wandb_internal_pb2 as messages

    monkeypatch.delenv("WANDB_MODE", raising=False)
    run_and_resume(tmp_path / "run/train", "wandb")
    found = []
    files = sorted((tmp_path / "run/train/wandb").glob("offline-run-*/*.wandb"))
    assert len({f.name for f in files}) == 1  # parts of one run: the name holds its id
    for file in files:
        for data in _log_records(file.read_bytes()):
            record = messages.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                found.append((int(row["_step"]), float(row["train/loss"])))
    assert sorted(found) == WANTED


def _log_records(data: bytes) -> Iterator[bytes]:
    """W&B's file: 7 bytes, then LevelDB's log format (crc 4, length 2, type 1) in blocks of 32 KiB."""
    at, part = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield part
            part = b""


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_real_mlflow_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_and_resume(tmp_path / "run/train", "mlflow")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == WANTED
    assert run.data.params["lora.rank"] == "4"
