"""Waiting until something is so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class WaitFor(Protocol):
    """Returns as soon as the condition holds, and fails when it does not within ``patience_s``."""

    def __call__(self, condition: Callable[[], object], patience_s: float = ...) -> None: ...


def waiter(default_s: float, every_s: float = 0.01) -> WaitFor:
    """A ``wait_for(condition)`` with this patience, which looks this often."""

    def wait_for(condition: Callable[[], object], patience_s: float = default_s) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(every_s)

    return wait_for
