"""What accompanies the loop and must survive with it: the moving average of the weights, patience, the choice of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tuneloop.train.parallel.gather import fill, whole
from tuneloop.train.sections import ValidationConfig


class Companion(Protocol):
    """Acts between the steps; ``state_dict`` (tensors and plain values) is in every checkpoint."""

    name: str

    def before_step(self, step: int) -> None:
        """Called before optimizer step ``step`` (from 0)."""

    def after_step(self, step: int) -> None:
        """Called after it."""

    def state_dict(self) -> dict[str, Any]:
        """All it needs to go on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


@runtime_checkable
class HoldsOptimizer(Protocol):
    """A companion that also acts on the optimizer, and has something to say at the end."""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before a checkpoint is restored."""

    def finish(self) -> None:
        """Called after the last step."""


class Average:
    """Exponential moving average of what trains: average = decay x average + (1 - decay) x weights.

    The decay grows with the steps as (1 + step) / (10 + step) up to its value, so that a short run is not held at its
    start (as TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).
    """

    name = "average"

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.average = {name: p.detach().clone() for name, p in parameters.items()}

    def before_step(self, step: int) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name] = kept

    def state_dict(self) -> dict[str, Any]:
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            fill(self.average[name], value)


class Patience:
    """Remembers the best validation, and asks to stop when too many after it were no better."""

    name = "patience"

    def __init__(self, config: ValidationConfig) -> None:
        self.config = config
        self.best: float | None = None
        self.best_step = 0
        self.without_improvement = 0

    def before_step(self, step: int) -> None:
        """Nothing to do."""

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def improved(self, value: float, step: int) -> bool:
        """Take note of a validation after ``step`` steps; whether it is the best so far."""
        sign = -1 if self.config.higher_is_better else 1
        better = math.isfinite(value) and (self.best is None or sign * value < sign * self.best)
        if better:
            self.best, self.best_step, self.without_improvement = value, step, 0
        else:
            self.without_improvement += 1
        return better

    @property
    def exhausted(self) -> bool:
        return self.config.patience is not None and self.without_improvement >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "without_improvement": self.without_improvement}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
        self.without_improvement = state["without_improvement"]


def tensors_of(parameters: Mapping[str, nn.Parameter], *, keep: bool = True) -> dict[str, Tensor]:
    """Whole copies on the CPU, as they are stored. Collective where a process holds parts; without ``keep`` it only takes
    part in the gathering and returns {}."""
    tensors: dict[str, Tensor] = {}
    for name, p in parameters.items():
        full = whole(p)
        if keep:
            tensors[name] = full.detach().contiguous().cpu()
    return tensors
