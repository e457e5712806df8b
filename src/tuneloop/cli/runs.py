"""Finding runs, their bundles and their settings; ``tuneloop runs``."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tuneloop.errors import ConfigError
from tuneloop.rundir import CONFIG, LOCK, MANIFEST, Run, RunDir

BUNDLE_STAGES = ("compress", "train")
"""Where a run's bundle is looked for: the smaller one first."""


def find(name: str | None, folder: Path = Path("runs")) -> Run:
    """A run by folder or name; None takes the newest.

    Raises:
        ConfigError: There is none.
    """
    if name is None:
        there = sorted(all_runs(folder), key=lambda r: r.root.stat().st_mtime)
        if not there:
            raise ConfigError("there is no run yet", where=str(folder), hint="tuneloop run PROJECT.yaml")
        return there[-1]
    for path in (Path(name), folder / name):
        if any(path.glob(f"*/{MANIFEST}")):
            return Run(path)
    known = ", ".join(r.root.name for r in all_runs(folder)) or "none"
    raise ConfigError(f"there is no run {name!r}", where=str(folder), hint=f"runs here: {known}")


def all_runs(folder: Path) -> Iterator[Run]:
    """Every run below a folder."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and any(path.glob(f"*/{MANIFEST}")):
                yield Run(path)


def bundle_of(name: str) -> Path:
    """The folder of the model that a run serves: the compressed one if it passed parity, else the tuned one.

    Raises:
        ConfigError: Neither a run with a finished training nor a model folder.
    """
    path = Path(name)
    files = ("tuneloop.json", "config.json", "adapter_config.json", "*.gguf")
    if path.is_dir() and any(found for pattern in files for found in path.glob(pattern)):
        return path
    run = find(name)
    for stage in BUNDLE_STAGES:
        out = run.dir(stage)
        if out.complete and (stage != "compress" or _passed_parity(out)):
            return out / "bundle"
    raise ConfigError("this run has no finished training", where=str(run.root), hint="tuneloop train PROJECT.yaml")


def _passed_parity(out: RunDir) -> bool:
    found = json.loads((out / "compress.json").read_text(encoding="utf-8"))
    return bool(found["parity"]["ok"])


def project_of(name: str, stage: str) -> dict[str, Any]:
    """The saved settings of a stage of a run; {} where there are none."""
    try:
        path = find(name).dir(stage) / CONFIG
    except ConfigError:
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def name_of(name: str) -> str | None:
    """The name of a run; None for a bundle's folder, which has a name of its own."""
    try:
        return find(name).root.name
    except ConfigError:
        return None


def system_prompt_of(name: str) -> str | None:
    """The system prompt that the run's records begin with."""
    try:
        path = find(name).dir("data") / "train.jsonl"
    except ConfigError:
        return None
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        first = json.loads(file.readline() or "{}")
    messages = first.get("messages") or [{}]
    return str(messages[0]["content"]) if messages[0].get("role") == "system" else None


def describe(run: Run) -> dict[str, Any]:
    """One line of ``tuneloop runs``."""
    stages = {
        p.parent.name: RunDir(p.parent).manifest.get("status", "?") for p in sorted(run.root.glob(f"*/{MANIFEST}"))
    }
    verdict = None
    comparison = run.dir("compare") / "comparison.json"
    if comparison.exists():
        verdict = json.loads(comparison.read_text(encoding="utf-8"))["verdict"]["decision"]
    size = sum(f.stat().st_size for f in run.root.rglob("*") if f.is_file())
    if _is_running(run):
        status = "running"
    else:
        status = "complete" if all(s == "complete" for s in stages.values()) else "interrupted"
    return {"name": run.root.name, "folder": str(run.root), "status": status, "stages": stages, "verdict": verdict,
            "bytes": size}  # fmt: skip


def _is_running(run: Run) -> bool:
    """Whether a process holds the run's lock."""
    try:
        file = (run.root / LOCK).open()
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def show(folder: Path, *, as_json: bool) -> None:
    """``tuneloop runs``."""
    found = [describe(run) for run in all_runs(folder)]
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    if not found:
        print(f"no runs in {folder}/ yet; start one: tuneloop run PROJECT.yaml")
    for row in found:
        done = sum(s == "complete" for s in row["stages"].values())
        open_stages = [n for n, s in row["stages"].items() if s != "complete"]
        where = f" in {', '.join(open_stages)}" if open_stages else ""
        state = f"{row['status']}{where}, {done} stage{'s' * (done != 1)} done"
        print(f"{row['name']:24} {state:44} verdict {row['verdict'] or '-':10} {row['bytes'] / 1e6:8.0f} MB")
