"""How much memory is free, as this process may use it: the machine's, the container's, or the GPU's."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes(device: str = "cpu", *, proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes that can still be taken; None where the system does not say.

    On a CPU the smaller of the kernel's ``MemAvailable`` and what is left of the control group's limit (version 2, or
    version 1; of the group's use, file cache that the kernel gives back at once does not count). On a GPU what its driver
    reports as free.

    Args:
        device: ``cpu``, or a CUDA device such as ``cuda`` or ``cuda:1``.
        proc: Where procfs is.
        cgroup: Where the control groups are.
    """
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    found = [n for n in (_mem_available(proc / "meminfo"), *_group_left(proc, cgroup)) if n is not None]
    return min(found, default=None)


def resident_bytes() -> int:
    """Memory of this process now (its peak where the system does not say)."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(name: str) -> int | None:
    return _kilobytes(PROC / "self/status", name)


def _mem_available(meminfo: Path) -> int | None:
    return _kilobytes(meminfo, "MemAvailable")


def _kilobytes(file: Path, name: str) -> int | None:
    for line in _lines(file):
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _group_left(proc: Path, root: Path) -> list[int | None]:
    """What is left in each control group that this process is in, up to the root of the hierarchy."""
    left: list[int | None] = []
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, names = (root, _V2) if not controllers else (root / "memory", _V1)
        folder = base / path.strip("/")
        while True:
            left.append(_left(folder, *names))
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent
    return left


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(folder: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    limit, used = _number(folder / limit_name), _number(folder / used_name)
    if limit is None or used is None or limit >= 1 << 60:  # version 1 writes "no limit" as a huge number
        return None
    cache = next((int(x.split()[1]) for x in _lines(folder / "memory.stat") if x.split()[0] == cache_name), 0)
    return max(0, limit - used + cache)


def _number(file: Path) -> int | None:
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
