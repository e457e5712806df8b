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
from tuneloop.train.parallel.gather import cut_state, fill, whole_tree
from tuneloop.train.parallel.world import ALONE, World

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


def save(folder: Path, live: Live, position: Position, *, keep: int, world: World = ALONE) -> Path:
    """Write ``folder/step-00000042`` and remove all but the newest ``keep``.

    Of several processes the main one writes what all of them hold, and the others wait until it is on the disk.

    Raises:
        ResourceError: The disk is full. Earlier checkpoints are untouched.
    """
    final = folder / f"step-{position.step:08}"
    with world.guarded():
        tensors = tensors_of(live.parameters, keep=world.is_main)
        rest = {
            "optimizer": whole_tree(live.optimizer.state_dict(), keep=world.is_main),
            "companions": whole_tree({c.name: c.state_dict() for c in live.companions}, keep=world.is_main),
        }
    own, *others = world.gather(_rng())
    rest |= {"rng": own, "rng_of_others": others}

    def write() -> None:
        _write(final, tensors, rest, asdict(position))
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    world.from_main(write)
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


def restore(folder: Path, live: Live, plan_hash: str, world: World = ALONE) -> Position | None:
    """Load the newest whole checkpoint of this plan, whatever number of processes wrote it; None when there is none."""
    chosen = world.from_main(lambda: _newest(folder, plan_hash))
    return None if chosen is None else _load(chosen, live, world)


def _newest(folder: Path, plan_hash: str) -> Path | None:
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        why = _damage(candidate, plan_hash)
        if why:
            log(f"  checkpoint {candidate.name} is passed over: {why}")
            continue
        return candidate
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
        fill(parameters[name], tensor)


def _load(candidate: Path, live: Live, world: World) -> Position:
    from safetensors.torch import load_file

    state = json.loads((candidate / STATE).read_text())
    _copy(load_file(candidate / WEIGHTS), live.parameters)
    rest = torch.load(candidate / OPTIMIZER, weights_only=True, map_location="cpu")
    live.optimizer.load_state_dict(cut_state(rest["optimizer"], live.optimizer))
    for companion in live.companions:
        companion.load_state_dict(rest["companions"][companion.name])
    _set_rng([rest["rng"], *rest.get("rng_of_others", [])], world)
    return Position(state["step"], state["tokens"], state["plan_hash"])


def _set_rng(saved: Sequence[Mapping[str, Any]], world: World) -> None:
    """Everybody's own random numbers go on; of a world of another size, only the main process's can."""
    if len(saved) != world.size and not world.is_main:
        torch.set_rng_state(saved[0]["cpu"])
        torch.manual_seed(int(torch.randint(2**62, ())) + world.rank)
        return
    own = saved[world.rank]
    torch.set_rng_state(own["cpu"])
    if own["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(own["cuda"])
