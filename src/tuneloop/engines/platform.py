"""What the operating system must be asked for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SIGACTION_BYTES = 1024
"""More than ``struct sigaction`` takes anywhere; its layout does not matter to save and restore it."""
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def available_threads() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back, whatever a native library does to them inside the block.

    ``signal.signal`` would do only in the main thread.
    """
    libc = ctypes.CDLL(None)
    saved = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        saved[number] = ctypes.create_string_buffer(_SIGACTION_BYTES)
        libc.sigaction(int(number), None, saved[number])
    try:
        yield
    finally:
        for number, action in saved.items():
            libc.sigaction(int(number), action, None)


def die_with_parent(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel (Linux) to send this process a signal when the thread that started it is gone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)
