"""What the operating system must be asked for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STRUCT_BYTES = 1024
"""More than ``struct sigaction`` and ``stack_t`` take anywhere; their layout does not matter to save and restore them."""
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def available_threads() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def keep_signals() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM and this thread's signal stack back, whatever a native library does to them.

    llama.cpp's wrapper takes the handlers (``signal.signal`` could put them back in the main thread only). OpenVINO gives
    the thread that loads a model a stack for its signal handlers and frees it with the model, perhaps from another
    thread, without taking it back (a sigaltstack(2) of its own per loaded plugin): the next signal then ends the process.
    """
    libc = ctypes.CDLL(None)
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handlers[number] = ctypes.create_string_buffer(_STRUCT_BYTES)
        libc.sigaction(int(number), None, handlers[number])
    stack = ctypes.create_string_buffer(_STRUCT_BYTES)
    libc.sigaltstack(None, stack)
    try:
        yield
    finally:
        for number, action in handlers.items():
            libc.sigaction(int(number), action, None)
        libc.sigaltstack(stack, None)


def die_with_parent(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel (Linux) to send this process a signal when the thread that started it is gone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)
