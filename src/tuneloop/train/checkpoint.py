"""Checkpoints that survive a crash at any moment: written aside, hashed, fsynced, renamed; a damaged one is passed over."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tuneloop.progress import log
from tuneloop.rundir import disk_error_in, fsync_path, sha256_file, write_atomic

STATE, WEIGHTS, OPTIMIZER = "state.json", "weights.safetensors", "optimizer.pt"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is: optimizer steps done, real tokens seen, and which plan that counts in."""

    step: int
    tokens: int
    plan_hash: str


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position, *, keep: int) -> Path:
    """Write ``folder/step-00000042`` and remove all but the newest ``keep``.

    Only what trains is stored; the frozen rest comes from the base model, whose hash the stage's manifest holds.

    Raises:
        ResourceError: The disk is full. Earlier checkpoints are untouched.
    """
    from safetensors.torch import save_file

    final = folder / f"step-{position.step:08}"
    temporary = folder / f".{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {n: p.detach().contiguous().cpu() for n, p in model.named_parameters() if p.requires_grad}
        save_file(weights, temporary / WEIGHTS)
        torch.save({"optimizer": optimizer.state_dict(), "rng": _rng()}, temporary / OPTIMIZER)
        hashes = {name: _sync(temporary / name) for name in (WEIGHTS, OPTIMIZER)}
        state = {"step": position.step, "tokens": position.tokens, "plan_hash": position.plan_hash, "sha256": hashes}
        write_atomic(temporary / STATE, json.dumps(state))
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync_path(folder)
    except Exception as error:  # torch and safetensors wrap a full disk in errors of their own
        shutil.rmtree(temporary, ignore_errors=True)
        if explained := disk_error_in(error, final):
            raise explained from error
        raise
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
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


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, plan_hash: str) -> Position | None:
    """Load the newest whole checkpoint of this plan into model and optimizer; None when there is none."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        why = _damage(candidate, plan_hash)
        if why:
            log(f"  checkpoint {candidate.name} is passed over: {why}")
            continue
        return _load(candidate, model, optimizer)
    return None


def _damage(candidate: Path, plan_hash: str) -> str | None:
    try:
        state = json.loads((candidate / STATE).read_text())
        if state["plan_hash"] != plan_hash:
            return "it belongs to another batch plan"
        for name, seen in state["sha256"].items():
            if sha256_file(candidate / name) != seen:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError) as error:
        return f"it is incomplete ({error})"
    return None


def _load(candidate: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    from safetensors.torch import load_file

    state = json.loads((candidate / STATE).read_text())
    weights = load_file(candidate / WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    rest = torch.load(candidate / OPTIMIZER, weights_only=True, map_location="cpu")
    optimizer.load_state_dict(rest["optimizer"])
    torch.set_rng_state(rest["rng"]["cpu"])
    if rest["rng"]["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(rest["rng"]["cuda"])
    return Position(state["step"], state["tokens"], state["plan_hash"])
