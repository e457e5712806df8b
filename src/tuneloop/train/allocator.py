"""The C library's allocator, told to keep what a training step frees for the next one."""

from __future__ import annotations

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""glibc's malloc.h."""

MMAP_THRESHOLD_BYTES = 32 << 20
"""The most that glibc takes (DEFAULT_MMAP_THRESHOLD_MAX on 64 bits)."""


@functools.cache
def keep_freed_memory() -> bool:
    """Stop glibc from giving freed memory back between steps; returns whether that was possible.

    By default blocks of some size are mapped anew for every allocation, and every page of them faults once more in every
    step. Larger blocks than ``MMAP_THRESHOLD_BYTES`` still do. Peak memory stays as it was: what is kept is used again.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
