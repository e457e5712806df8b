"""Where metrics go besides metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tuneloop.rundir import RunDir
from tuneloop.train.config import TrainConfig

Track = Callable[[int, Mapping[str, float]], None]


@contextmanager
def trackers(out: RunDir, config: TrainConfig, step: int) -> Iterator[Track]:
    """A function (step, values) that writes to every tracker of the configuration; ``step`` is where the run continues."""
    if "tensorboard" not in config.trackers:
        yield lambda _step, _values: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None) as writer:

        def write(at: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(f"train/{name}", value, at)

        yield write
