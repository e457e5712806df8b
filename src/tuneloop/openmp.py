"""How OpenMP's threads wait for their next piece of work (design/log.md has the numbers).

Training waits awake for a moment and then sleeps. Engines answer with the threads that their users know: libgomp's own
way, which is to wait awake for longer. Whoever sets ``OMP_WAIT_POLICY`` has it everywhere.
"""

from __future__ import annotations

import os

OURS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
LIBGOMP_SPINS = "300000"
"""What libgomp counts to where nothing is said (``initialize_env`` in its env.c)."""


def wait_briefly() -> None:
    """Set how threads wait in this process; in time before anything loads libgomp, as torch does."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = OURS["OMP_WAIT_POLICY"]
        os.environ.setdefault("GOMP_SPINCOUNT", OURS["GOMP_SPINCOUNT"])


def engine_environment() -> dict[str, str]:
    """For an engine's process, which imports this package too."""
    return {**os.environ, **({"GOMP_SPINCOUNT": LIBGOMP_SPINS} if _set_here() else {})}


def foreign_environment() -> dict[str, str]:
    """For a program that is not ours: as if this package had not been imported."""
    ours = OURS if _set_here() else {}
    return {name: value for name, value in os.environ.items() if name not in ours}


def _set_here() -> bool:
    """Here, or in the process that started this one."""
    spins = os.environ.get("GOMP_SPINCOUNT")
    return os.environ.get("OMP_WAIT_POLICY") == OURS["OMP_WAIT_POLICY"] and spins in (
        OURS["GOMP_SPINCOUNT"],
        LIBGOMP_SPINS,
    )
