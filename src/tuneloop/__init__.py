"""Tuneloop: from raw data to your own private, measured, monitored model, and round again.

    import tuneloop
    result = tuneloop.run("examples/bank-support/tuneloop.yaml", "train.epochs=1")

Importing this package is light (no torch, no server); each name below loads its room on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tuneloop.openmp import wait_briefly

wait_briefly()  # before torch loads OpenMP

__version__ = "0.1.0"

_LAZY = {
    "run": "tuneloop.loop",
    "load_project": "tuneloop.loop",
    "ProjectConfig": "tuneloop.loop",
    "LoopResult": "tuneloop.loop",
}

if TYPE_CHECKING:
    from tuneloop.loop import LoopResult, ProjectConfig, load_project, run

__all__ = ["LoopResult", "ProjectConfig", "__version__", "load_project", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tuneloop' has no attribute {name!r}")
