"""What surrounds the stages: signals, a full disk or memory, and memory between stages."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tuneloop.errors import Interrupted, ResourceError
from tuneloop.rundir import disk_error


@contextmanager
def interruptible(command: str) -> Iterator[None]:
    """SIGTERM and Ctrl-C end a stage with a sentence that says how to continue, not with a traceback."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns it handles signals
        before = None
    try:
        yield
    except Interrupted as stopped:
        raise Interrupted(
            stopped.what, where=stopped.where, hint=f"the same command goes on from here: {command}"
        ) from None
    except KeyboardInterrupt as stopped:
        why = str(stopped) or "Ctrl-C"
        raise Interrupted(
            f"interrupted ({why}); finished stages are kept", hint=f"the same command goes on from here: {command}"
        ) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """A full disk or memory, met by whatever library, in two lines."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_error(error, Path(error.filename) if error.filename else root) from error
        raise
    except (MemoryError, RuntimeError) as error:
        words = ("can't allocate memory", "out of memory")
        if isinstance(error, MemoryError) or any(w in str(error).lower() for w in words):
            raise ResourceError(
                f"the memory is full: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                where=str(root),
                hint="take a smaller train.batch_size or model; tuneloop doctor shows what fits this machine",
            ) from error
        raise


@contextmanager
def without_fetching() -> Iterator[None]:
    before = os.environ.get("TUNELOOP_OFFLINE")
    os.environ["TUNELOOP_OFFLINE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("TUNELOOP_OFFLINE")
        if before is not None:
            os.environ["TUNELOOP_OFFLINE"] = before


def free_memory() -> None:
    """Nothing of a finished stage stays in memory, so that the next one (and its child processes) has all of it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
