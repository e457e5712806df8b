"""Where metrics go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow (the last two through Accelerate).

Nothing leaves the machine unless asked: W&B works offline unless ``WANDB_MODE`` says otherwise, MLflow writes into the
run's own folder unless ``MLFLOW_TRACKING_URI`` does, and both are told to report nothing about themselves. A resumed run
goes on on the same board: what the board has of each metric already is not sent again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tuneloop.config import hash_json
from tuneloop.errors import need
from tuneloop.rundir import RunDir
from tuneloop.train.config import TrainConfig

Track = Callable[[int, Mapping[str, float]], None]

PROJECT = "tuneloop"
"""Project of W&B and experiment of MLflow, unless ``WANDB_PROJECT`` or ``MLFLOW_EXPERIMENT_NAME`` says otherwise."""

_QUIET = {
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "true",
}


def require(names: Sequence[str]) -> None:
    """Check that every tracker can be used, before anything takes time.

    Raises:
        MissingExtraError: A tracker is not installed.
    """
    os.environ.update({k: v for k, v in _QUIET.items() if k not in os.environ})  # read when they are imported
    for name in names:
        need(name, "train" if name == "tensorboard" else name)


@contextmanager
def trackers(out: RunDir, config: TrainConfig, step: int) -> Iterator[Track]:
    """A function (step, values) that writes to every tracker of the configuration; ``step`` is where the run continues.

    Raises:
        MissingExtraError: A tracker is not installed.
    """
    require(config.trackers)
    with ExitStack() as stack:
        boards: list[Track] = []
        if "tensorboard" in config.trackers:
            boards.append(stack.enter_context(_tensorboard(out, step)))
        for name, make in (("wandb", _wandb), ("mlflow", _mlflow)):
            if name in config.trackers:
                boards.append(stack.enter_context(_board(out, config, name, make)))

        def write(at: int, values: Mapping[str, float]) -> None:
            for board in boards:
                board(at, values)

        yield write


@contextmanager
def _tensorboard(out: RunDir, step: int) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None) as writer:

        def write(at: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(f"train/{name}", value, at)

        yield write


@contextmanager
def _board(out: RunDir, config: TrainConfig, name: str, make: Callable[[RunDir, str], Any]) -> Iterator[Track]:
    """One of Accelerate's trackers, started, and ended with the run."""
    from accelerate import PartialState

    PartialState()  # Accelerate's trackers ask it which process they are in
    sent = Sent(out / f".{name}.json")
    new = not sent.last
    board = make(out, _run_id(out))
    board.start()
    if new:
        board.store_init_configuration(_flat(config.model_dump(mode="json", exclude_none=True)))

    def write(at: int, values: Mapping[str, float]) -> None:
        fresh = {f"train/{k}": v for k, v in values.items() if at > sent.last.get(k, 0)}
        if fresh:
            board.log(fresh, step=at)
            sent.note(values, at)

    try:
        yield write
    finally:
        board.finish()


class Sent:
    """The last step of each metric that a board has. It is written at every step, so a killed run knows it too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.last: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.last = {}

    def note(self, names: Mapping[str, float], step: int) -> None:
        self.last.update(dict.fromkeys(names, step))
        self.path.write_text(json.dumps(self.last), encoding="utf-8")


def _wandb(out: RunDir, run_id: str) -> Any:
    from accelerate.tracking import WandBTracker

    mode = os.environ.get("WANDB_MODE", "offline")
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    resume = "allow" if mode == "online" else None  # offline, the parts of a run are joined by their id when synced
    name = out.path.parent.name
    return WandBTracker(project, id=run_id, name=name, dir=str(out.path), mode=mode, resume=resume)


def _mlflow(out: RunDir, run_id: str) -> Any:
    import mlflow
    from accelerate.tracking import MLflowTracker

    if "MLFLOW_TRACKING_URI" not in os.environ:
        (out / "mlflow").mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow' / 'mlflow.db').resolve()}")
    marked = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.tuneloop_run = '{run_id}'", output_format="list"
    )
    place = None if "MLFLOW_TRACKING_URI" in os.environ else (out / "mlflow" / "artifacts").resolve().as_uri()
    return MLflowTracker(
        PROJECT,
        logging_dir=place,
        run_id=marked[0].info.run_id if marked else None,
        run_name=out.path.parent.name,
        tags={"tuneloop_run": run_id},
    )


def _run_id(out: RunDir) -> str:
    """The same for every process that continues this run in this folder, another for other settings."""
    return hash_json([str(out.path.resolve()), out.manifest.get("key"), out.manifest.get("started")])[:16]


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys with plain values."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{above}{key}.")
        else:
            out[above + key] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return out
