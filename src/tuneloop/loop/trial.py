"""What can be tried before a training: a rehearsal of it, and a sweep of its learning rate. The run itself stays untouched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tuneloop import train
from tuneloop.loop.guard import explained, free_memory, interruptible
from tuneloop.loop.stages import Loop
from tuneloop.progress import log
from tuneloop.rundir import RunDir, write_atomic

REHEARSAL, SWEEP, SWEEP_PLOT = "rehearsal.json", "learning-rate.json", "learning-rate.svg"


def rehearse(loop: Loop) -> train.Rehearsal:
    """Do or reuse the data stage, then two steps of the training with all that follows; ``rehearsal.json`` is all it leaves.

    Raises:
        TuneloopError: Whatever the run itself would raise.
    """
    records, settings = _given(loop)
    folder = RunDir(loop.run_folder.root / ".rehearsal")
    with loop.run_folder.lock(), interruptible(loop.command), explained(loop.run_folder.root):
        log("rehearsal: two steps of the training")
        shutil.rmtree(folder.path, ignore_errors=True)
        folder.path.mkdir(parents=True)
        try:
            found = train.rehearse(loop.config.train, loop.base(), records, folder, **settings)
        finally:
            shutil.rmtree(folder.path, ignore_errors=True)
            free_memory()
        RunDir(loop.run_folder.root).write_json(REHEARSAL, found.to_json())
    return found


def find_learning_rate(loop: Loop) -> train.Sweep:
    """Do or reuse the data stage, then sweep; ``learning-rate.json`` and ``learning-rate.svg`` are written into the run.

    Raises:
        DataError: No usable training row.
    """
    records, settings = _given(loop)
    with loop.run_folder.lock(), interruptible(loop.command), explained(loop.run_folder.root):
        found = train.find_learning_rate(loop.config.train, loop.base(), records, **settings)
        free_memory()
        RunDir(loop.run_folder.root).write_json(SWEEP, found.to_json())
        write_atomic(loop.run_folder.root / SWEEP_PLOT, train.plot(found))
    return found


def _given(loop: Loop) -> tuple[Path, dict[str, Any]]:
    """The records, and how the run would load its model."""
    loop.run("data")
    model = loop.model
    settings = {
        "seed": loop.config.seed,
        "dtype": model.dtype,
        "chat_template": model.chat_template,
        "teacher": loop.teacher(),
    }
    return loop.run_folder.dir("data").path, settings
