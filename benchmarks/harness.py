"""One harness for every benchmark: interleaved runs of arms in processes of their own, an equality gate, JSON lines.

An arm is a command that prints one JSON object as its last line. Arms take turns (A B C A B C ...), so that a machine
whose speed drifts is fair to all of them; a ratio is the median of the ratios of runs that stood side by side.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ENVIRONMENT = dict(os.environ)
"""As it is before tuneloop is imported here, which says for its own process how OpenMP's threads wait: every arm decides
that for itself, peers as their users have them."""


@dataclass(frozen=True)
class Arm:
    """A competitor: its name and the command that measures it once."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]


def interleave(arms: Sequence[Arm], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run every arm ``rounds`` times, in turn; returns each arm's results."""
    found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for turn in range(rounds):
        for arm in arms:
            found[arm.name].append(once(arm))
            print(
                f"  round {turn + 1}/{rounds} {arm.name}: {found[arm.name][-1]['tokens_per_s']:.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    return found


def once(arm: Arm) -> dict[str, Any]:
    """Run an arm; its page faults come from the operating system's account of the finished process."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(arm.command, capture_output=True, text=True, env={**ENVIRONMENT, **arm.env}, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"error: arm {arm.name} failed\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result | {"minor_faults": after.ru_minflt - before.ru_minflt}


class PeakMemory:
    """Watches this process and its descendants. (``ru_maxrss`` begins with the peak of the parent that forked, and knows
    no process that still runs.)"""

    def __init__(self, every_s: float = 0.05) -> None:
        self._peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(every_s,), daemon=True)
        self._thread.start()

    def _watch(self, every_s: float) -> None:
        while not self._done.wait(every_s):
            self._peak = max(self._peak, tree_bytes(os.getpid()))

    def stop(self) -> int:
        """The peak so far, in bytes."""
        self._done.set()
        self._thread.join()
        return max(self._peak, tree_bytes(os.getpid()))


def family(pid: int) -> list[Any]:
    """A process and its descendants (``psutil.Process``); none when it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants, private pages and its share of shared ones."""
    import psutil

    total = 0
    for member in family(pid):
        with suppress(psutil.Error):  # it has just ended
            total += member.memory_full_info().pss
    return total


def signal_tree(pids: Sequence[int], number: int) -> None:
    """Send a signal, such as SIGSTOP, to processes and all of their descendants."""
    import psutil

    for pid in pids:
        for member in family(pid):
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)


def peak_bytes() -> int:
    """Largest resident size of this process. Not ``ru_maxrss``: that also remembers the process it was forked from."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def step_seconds(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Wall time of each optimizer step, from the metrics of a run that began at its first line."""
    before = [{"tokens": 0}, *lines]
    return [(b["tokens"] - a["tokens"]) / b["tokens_per_s"] for a, b in zip(before, lines, strict=False)]


def hardware() -> str:
    """A short name for file names, e.g. ``amd-epyc-2cores``."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    short = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()[:3])
    return f"{short}-{len(os.sched_getaffinity(0))}cores"


def line(
    bench: str, case: str, arm: str, metric: str, unit: str, values: Sequence[float], *,
    against: str = "", ratios: Sequence[float] = (), ok: bool = True, command: str, versions: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """One result line."""
    return {
        "bench": bench, "case": case, "arm": arm, "metric": metric, "unit": unit,
        "median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3),
        "n": len(values), "ratio_to": against,
        "ratio": round(statistics.median(ratios), 3) if ratios else None,
        "ratio_low": round(min(ratios), 3) if ratios else None, "ratio_high": round(max(ratios), 3) if ratios else None,
        "ok": ok, "command": command, "versions": dict(versions), "hardware": hardware(), "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def commit() -> str:
    """The commit that was measured, with ``+`` when the tree had changes."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, cwd=ROOT
    )
    return head + ("+" if dirty.stdout.strip() else "")


def write(bench: str, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Rewrite the bench's result file of this hardware."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{bench}_{hardware()}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")
    return path


def read(bench: str) -> list[dict[str, Any]]:
    """What an earlier run of the bench wrote on this hardware."""
    path = RESULTS / f"{bench}_{hardware()}.jsonl"
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def peer_python(
    name: str, packages: Sequence[str], first: Sequence[str] = ("torch==2.13.0",), without: Sequence[str] = ()
) -> str:
    """The Python of a peer's own virtual environment ``.venv-<name>``, made on first use; ``first`` is installed first,
    ``without`` is removed in the end (what was built for another PyTorch)."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for group in filter(None, (first, packages)):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *group], check=True)
        if without:
            subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *without], check=True)
        stamp.write_text(" ".join(packages))
    return str(python)
