"""Starting several processes in a test."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DEADLINE_S = 300.0


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Without what a launcher around the tests might have set."""
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return own | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | more


def torchrun(words: Sequence[str], module: str = "torch.distributed.run", **options: Any) -> subprocess.Popen[str]:
    """Two processes under torchrun."""
    port = ["--nproc-per-node", "2", "--master-port", str(free_port())]
    return subprocess.Popen(
        [sys.executable, "-m", module, *port, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**options.pop("env", {})), **options,
    )  # fmt: skip


def train_together(cases: Sequence[Mapping[str, Any]], folder: Path, **env: str) -> None:
    """Every case of ``curves.py`` on two processes, one after another."""
    script = Path(__file__).with_name("curves.py")
    listed = folder / "cases.json"
    listed.write_text(json.dumps(list(cases)))
    process = torchrun([str(script), str(listed), str(folder)], env=env)
    _, errors = process.communicate(timeout=2 * DEADLINE_S)
    assert process.returncode == 0, errors[-6000:]
