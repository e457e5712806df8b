"""Regional ``torch.compile``: the layers of the decoder run as compiled programs, which all layers share.

What lies between the products of a layer (norms, rotary positions, gates, sums) becomes few kernels. Attention stays as it
is, and so do a last layer that gives labelled rows only, validation and generated samples. Whether it pays depends on
model, machine and length of the run, so ``auto`` measures both ways on rows of the plan before the first step and writes
down what it found:

    <stage>/compiled.json  {"compile": true, "seconds": …, "plain_s": …, "compiled_s": …, "plan_hash": …}

Compiled code is made for the shapes that are met, in the order in which they are met, so that a resumed run may round
differently; everything else about a step stays the same.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn

from tuneloop.errors import ModelError, TuneloopError, first_line
from tuneloop.models import backbone, causal_model
from tuneloop.progress import log
from tuneloop.rundir import write_atomic
from tuneloop.train import kernels
from tuneloop.train.config import TrainConfig
from tuneloop.train.objectives import Objective
from tuneloop.train.oom import free_memory, is_out_of_memory
from tuneloop.train.plan import BatchPlan
from tuneloop.types import Example

DECISION = "compiled.json"
BACKEND = "inductor"
FEWEST_PASSES = 200
"""``auto``: a shorter run does not give back the minute or two that compiling takes."""

MEASURED = 4
"""Passes of the plan that are measured, each ``TIMES`` times each way, after one that pays for the programs."""

TIMES = 3
GAIN = 0.97
"""``auto``: compiled layers stay where a pass takes at most this share of the time without."""

_OUT_OF_MEMORY = "a compiled pass does not fit into memory"


def arrange(
    model: nn.Module,
    objective: Objective,
    examples: Sequence[Example],
    plan: BatchPlan,
    config: TrainConfig,
    folder: Path,
    *,
    alone: bool = True,
) -> None:
    """Compile the layers of a model if ``memory.compile`` asks for it (``auto``: if that pays).

    Args:
        model: Prepared by its method.
        objective: What is minimised.
        examples: Training rows.
        plan: Which of them make a pass.
        config: Of the stage.
        folder: Of the stage's checkpoints.
        alone: No other process trains with this one.

    Raises:
        ModelError: ``compile: on``, and the layers cannot be compiled here.
    """
    wanted = config.memory.compile
    if wanted == "off" or not plan.steps:
        return
    if config.method == "select":  # and all that may train would be tried at once
        log("  layers are not compiled: method select trains others every few steps")
        return
    if not _layers(model):
        log(f"  layers are not compiled: those of {type(causal_model(model)).__name__} are not known")
        return
    passes = [[examples[i] for i in micro] for step in plan.steps[:MEASURED] for micro in step][:MEASURED]
    attempt = _Attempt(model, objective, passes)
    if wanted == "on":
        why = attempt.compiles() if alone else None
        if why == _OUT_OF_MEMORY:  # the loop makes its passes smaller
            free_memory()
        elif why is not None:
            remove(model)
            raise ModelError(f"the layers cannot be compiled: {why}", hint="set train.memory.compile=off")
        apply(model)
        return
    why = _decided(attempt, plan, folder, alone=alone)
    if why is None:
        apply(model)
    else:
        remove(model)
        free_memory()
        log(f"  layers are not compiled: {why}")


def apply(model: nn.Module) -> int:
    """Let the layers run compiled wherever gradients are computed; returns how many do. Calling it again changes nothing."""
    layers = _layers(model)
    for layer in layers:
        if not _is_compiled(layer):
            layer.forward = _Compiled(layer)
    return len(layers)


def remove(model: nn.Module) -> None:
    """Let the layers run as they did before, and forget their programs: another stage needs others."""
    made = [layer for layer in _layers(model) if _is_compiled(layer)]
    for layer in made:
        del layer.__dict__["forward"]
    if made:
        torch.compiler.reset()


def _layers(model: nn.Module) -> list[Any]:
    layers = list(getattr(backbone(model), "layers", ()))
    return layers[:-1] if kernels.narrows(model) else layers


def _is_compiled(layer: nn.Module) -> bool:
    return isinstance(layer.__dict__.get("forward"), _Compiled)


class _Compiled:
    """A layer's forward, compiled for what trains and as it is for validation and generation.

    transformers' layers checkpoint inside of ``forward``; here that is around the program, which is what both know.
    """

    def __init__(self, layer: Any) -> None:
        written = type(layer).forward
        self.layer, self.plain, self.on = layer, layer.forward, True
        within = MethodType(getattr(written, "__wrapped__", written), layer)
        self.fast: Callable[..., Any] = torch.compile(within, dynamic=True, backend=BACKEND)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.on and torch.is_grad_enabled()):
            return self.plain(*args, **kwargs)
        if getattr(self.layer, "gradient_checkpointing", False) and self.layer.training:
            return self.layer._gradient_checkpointing_func(partial(self.fast, **kwargs), *args)
        return self.fast(*args, **kwargs)


def _decided(attempt: _Attempt, plan: BatchPlan, folder: Path, *, alone: bool) -> str | None:
    """Why the layers stay as they are; None where they are compiled. Measured once a stage."""
    count = sum(map(len, plan.steps))
    if not alone:
        return "several processes train together (train.memory.compile=on compiles there too)"
    if count < FEWEST_PASSES:
        return f"{count:,} passes are too few to give back what compiling takes ({FEWEST_PASSES:,} or more)"
    path = folder / DECISION
    said = json.loads(path.read_text()) if path.exists() else {}
    if said.get("plan_hash") != plan.hash:
        said = attempt.measure() | {"plan_hash": plan.hash}
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(said))
        if said["compile"]:
            log(
                f"  layers are compiled: a pass takes {said['compiled_s']:.3f} s instead of {said['plain_s']:.3f} s "
                f"(measured in {said['seconds']:.0f} s)"
            )
    return None if said["compile"] else str(said["why"])


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Forward and backward passes beside the run: no weight moves, and the random numbers are set back."""

    model: nn.Module
    objective: Objective
    passes: Sequence[Sequence[Example]]

    def compiles(self) -> str | None:
        """Why the layers cannot be compiled; None when they can, and are."""
        log("  compiling the layers: a minute or more")
        try:
            apply(self.model)
            with torch.random.fork_rng():
                for rows in self.passes:
                    self._pass(rows)
        except TuneloopError:  # has nothing to do with compiling
            raise
        except Exception as error:  # compilers and backends raise what they like, and the run can go on without them
            return _OUT_OF_MEMORY if is_out_of_memory(error) else first_line(error)
        return None

    def measure(self) -> dict[str, Any]:
        """Whether compiled layers are faster, in turns with the others."""
        begun = time.perf_counter()
        why = self.compiles()
        if why is not None:
            return {"compile": False, "why": why}
        try:
            with torch.random.fork_rng():
                turns = (rows for _ in range(TIMES) for rows in self.passes)
                pairs = [(self._pass(rows, compiled=False), self._pass(rows)) for rows in turns]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return {"compile": False, "why": _OUT_OF_MEMORY}
        plain_s, compiled_s = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(c / p for p, c in pairs)
        found = {"plain_s": plain_s, "compiled_s": compiled_s, "seconds": time.perf_counter() - begun}
        why = f"a pass takes {compiled_s:.3f} s compiled and {plain_s:.3f} s as it is"
        return {"compile": ratio <= GAIN, "why": why, **found}

    def _pass(self, rows: Sequence[Example], *, compiled: bool = True) -> float:
        """Seconds of one pass; its gradients are dropped."""
        for layer in _layers(self.model):
            layer.forward.on = compiled
        self.model.train()
        _wait()
        begun = time.perf_counter()
        try:
            self.objective(self.model, rows).backward()  # type: ignore[no-untyped-call]  # torch does not type it
            _wait()
        finally:
            self.model.zero_grad(set_to_none=True)
        return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
