"""Checkpoints that survive a crash at any moment: written aside, hashed, fsynced, renamed; a damaged one is passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuneloop.progress import log
from tuneloop.rundir import disk_error_in, fsync_path, sha256_file, write_atomic
from tuneloop.train.companions import Companion, tensors_of

STATE, WEIGHTS, OPTIMIZER = "state.json", "weights.safetensors", "optimizer.pt"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is: optimizer steps done, real tokens seen, and which plan that counts in."""

    step: int
    tokens: int
    plan_hash: str


@dataclass(frozen=True, slots=True)
class Live:
    """What a checkpoint holds and a resumed run gets back. ``parameters`` are those that train: the frozen rest comes
    from the base model, whose hash the stage's manifest holds."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    companions: Sequence[Companion] = ()


def save(folder: Path, live: Live, position: Position, *, keep: int) -> Path:
    """Write ``folder/step-00000042`` and remove all but the newest ``keep``.

    Raises:
        ResourceError: The disk is full. Earlier checkpoints are untouched.
    """
    final = folder / f"step-{position.step:08}"
    rest = {
        "optimizer": live.optimizer.state_dict(),
        "rng": _rng(),
        "companions": {c.name: c.state_dict() for c in live.companions},
    }
    _write(final, tensors_of(live.parameters), rest, asdict(position))
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def save_weights(final: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write weights alone (the best so far, or what a stage ends with), as safely as a checkpoint.

    Raises:
        ResourceError: The disk is full.
    """
    return _write(final, tensors, None, facts)


def load_weights(folder: Path, parameters: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Copy what ``save_weights`` wrote into ``parameters``; returns its facts, or None when it is not there or not whole."""
    from safetensors.torch import load_file

    if not folder.exists() or _damage(folder):
        return None
    _copy(load_file(folder / WEIGHTS), parameters)
    facts: dict[str, Any] = json.loads((folder / STATE).read_text())
    return facts


def _write(final: Path, tensors: Mapping[str, Tensor], rest: Any, facts: Mapping[str, Any]) -> Path:
    from safetensors.torch import save_file

    temporary = final.parent / f".{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(dict(tensors), temporary / WEIGHTS)
        if rest is not None:
            torch.save(rest, temporary / OPTIMIZER)
        hashes = {f.name: _sync(f) for f in sorted(temporary.iterdir())}
        write_atomic(temporary / STATE, json.dumps({**facts, "sha256": hashes}))
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync_path(final.parent)
    except Exception as error:  # torch and safetensors wrap a full disk in errors of their own
        shutil.rmtree(temporary, ignore_errors=True)
        if explained := disk_error_in(error, final):
            raise explained from error
        raise
    return final


def _sync(file: Path) -> str:
    """Put a file on the disk; returns its SHA-256."""
    fsync_path(file)
    return sha256_file(file)


def _rng() -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(folder: Path, live: Live, plan_hash: str) -> Position | None:
    """Load the newest whole checkpoint of this plan; None when there is none."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        why = _damage(candidate, plan_hash)
        if why:
            log(f"  checkpoint {candidate.name} is passed over: {why}")
            continue
        return _load(candidate, live)
    return None


def _damage(candidate: Path, plan_hash: str | None = None) -> str | None:
    try:
        state = json.loads((candidate / STATE).read_text())
        if plan_hash is not None and state["plan_hash"] != plan_hash:
            return "it belongs to another batch plan"
        for name, seen in state["sha256"].items():
            if sha256_file(candidate / name) != seen:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError) as error:
        return f"it is incomplete ({error})"
    return None


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def _load(candidate: Path, live: Live) -> Position:
    from safetensors.torch import load_file

    state = json.loads((candidate / STATE).read_text())
    _copy(load_file(candidate / WEIGHTS), live.parameters)
    rest = torch.load(candidate / OPTIMIZER, weights_only=True, map_location="cpu")
    live.optimizer.load_state_dict(rest["optimizer"])
    for companion in live.companions:
        companion.load_state_dict(rest["companions"][companion.name])
    torch.set_rng_state(rest["rng"]["cpu"])
    if rest["rng"]["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(rest["rng"]["cuda"])
    return Position(state["step"], state["tokens"], state["plan_hash"])
