"""``tuneloop serve`` in a process of its own, and what the operating system knows about it and its engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    memory_bytes: int
    """Private pages (USS): what it shares with other programs depends on those."""
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        process = psutil.Process(pid)
        with process.oneshot():
            return cls(process.memory_full_info().uss, process.num_fds(), process.num_threads())


class Service:
    """A gateway and its engine, each in a process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        said = self.wait_for("try: curl")
        url, key = re.search(r"http://[\d.]+:\d+", said), re.search(r"tl-[\w-]{43}", said)
        assert url is not None
        assert key is not None
        self.url, self.headers = url.group(), {"Authorization": f"Bearer {key.group()}"}

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def engine_pid(self) -> int:
        return next(c.pid for c in psutil.Process(self.pid).children() if "tuneloop.engines.child" in c.cmdline())

    @property
    def grpc_target(self) -> str:
        """Where gRPC listens, with ``grpc_port: 0``."""
        found = re.search(r"gRPC at ([\d.]+:\d+)", self.wait_for("gRPC at "))
        assert found is not None
        return found[1]

    def wait_for(self, word: str, patience_s: float = 90.0) -> str:
        """What it has written to standard error, as soon as ``word`` is in it."""
        deadline = time.monotonic() + patience_s
        while word not in (said := self.log.read_text()):
            assert time.monotonic() < deadline, said
            assert self.process.poll() is None, said
            time.sleep(0.02)
        return said

    def metrics(self) -> dict[str, float]:
        """Every series with its value."""
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=30, trust_env=False).text
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in rows}


@contextmanager
def service(
    bundle: Path, folder: Path, config: dict[str, Any], env: dict[str, str] | None = None, **popen: Any
) -> Iterator[Service]:
    """Serve ``bundle`` with these settings; ``folder`` takes the database, the configuration and the log."""
    settings, log = folder / "serve.yaml", folder / "serve.log"
    settings.write_text(yaml.safe_dump({"port": 0} | config))
    command = [sys.executable, "-m", "tuneloop", "serve", str(bundle), "--config", str(settings)]
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stderr=said, stdout=said, env=os.environ | {"TUNELOOP_HOME": str(folder)} | (env or {}), **popen
        )
    try:
        yield Service(process, log)
    finally:
        process.kill()
        process.wait()


def total(series: dict[str, float], name: str, **labels: str) -> float:
    """The sum of the series of a metric that have these labels."""
    wanted = [f'{k}="{v}"' for k, v in labels.items()]
    return sum(v for k, v in series.items() if k.startswith(f"{name}{{") and all(w in k for w in wanted))


def said(answer: httpx.Response) -> str:
    """The code of an error in OpenAI's shape."""
    error = json.loads(answer.text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])
