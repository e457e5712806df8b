"""Training only the layers that matter, and choosing them again as the model changes.

LISA (Pan et al., 2024, arXiv:2403.17919) saw that some layers' weights move far more than others' and trains a random few
at a time. Here they are measured. The score of a layer is the norm of its gradient over the norm of its weights,
averaged over passes: the share of itself that gradient descent would change in it at one rate for all (the inverse of the
"trust ratio" of LARS, You et al., 2017, arXiv:1708.03888). A plain gradient norm would favour layers whose weights are
merely large or many; the ratio does not change when a layer is rescaled. The layers with the highest score train until
the next choice.

Gradients are measured and dropped parameter by parameter, so that a choice needs no more memory than a step. The moments
of layers that leave are dropped; a layer that comes back begins with new ones.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuneloop.errors import ConfigError
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig
from tuneloop.train.methods.decoder import layers_of
from tuneloop.train.methods.whole import is_router
from tuneloop.types import Example

MOMENT_BYTES = 8
"""AdamW: two float32 moments a weight."""


def select(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Every decoder layer is a candidate; embedding, last norm, head and routers stay frozen.

    Raises:
        ConfigError: As many layers would be chosen as there are.
        ModelError: An architecture without a list of layers.
    """
    layers = layers_of(model)
    if config.select.layers >= len(layers):
        raise ConfigError(
            f"{config.select.layers} of {len(layers)} layers leave nothing to choose",
            where="train.select.layers",
            hint="choose fewer, or set train.method=full",
        )
    model.requires_grad_(False)
    for layer in layers:
        for name, parameter in layer.named_parameters(prefix="layer"):
            parameter.requires_grad_(not is_router(name))
    log(f"  {config.select.layers} of {len(layers)} layers train, chosen every {config.select.every_steps} steps")
    return model


class Selection:
    """The companion that chooses. Its state is the choice; the scores are deterministic: sample and step decide."""

    name = "select"

    def __init__(
        self,
        model: nn.Module,
        loss_of: Callable[[nn.Module, Sequence[Example]], Tensor],
        examples: Sequence[Example],
        config: TrainConfig,
    ) -> None:
        self.model, self.loss_of, self.examples, self.config = model, loss_of, examples, config
        self.candidates = [[p for p in layer.parameters() if p.requires_grad] for layer in layers_of(model)]
        self.chosen: list[int] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.choosing_s = self.training_s = 0.0
        self.begun = time.perf_counter()

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer whose moments are dropped with the layers they belong to."""
        self.optimizer = optimizer

    def before_step(self, step: int) -> None:
        """Choose where it is due."""
        begun = time.perf_counter()
        if step % self.config.select.every_steps == 0:
            self._choose(step)
        self.begun = time.perf_counter()
        self.choosing_s += self.begun - begun

    def after_step(self, step: int) -> None:
        """Count the time of the step."""
        self.training_s += time.perf_counter() - self.begun

    def finish(self) -> None:
        """Say what the method saved; every candidate counts as trained from here on, as its weights are kept."""
        trained, total = self._weights(self.chosen), sum(p.numel() for p in self.model.parameters())
        spent = self.choosing_s + self.training_s
        log(
            f"  select: {100 * trained / total:.2g} % of the weights trained at a time; the optimizer holds "
            f"{self.optimizer_bytes() / 1e6:,.1f} MB, for the whole model it would hold {MOMENT_BYTES * total / 1e6:,.1f} MB; "
            f"choosing took {100 * self.choosing_s / max(spent, 1e-9):.1f} % of {spent:.1f} s"
        )
        for parameters in self.candidates:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def optimizer_bytes(self) -> int:
        """What the optimizer's tensors take."""
        held = [] if self.optimizer is None else list(self.optimizer.state.values())
        return sum(t.nbytes for state in held for t in state.values() if isinstance(t, Tensor))

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": list(self.chosen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._train(state["chosen"])

    def _choose(self, step: int) -> None:
        scores = self._scores(step)
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        self._train(sorted(order[: self.config.select.layers]))
        shown = ", ".join(f"{i} ({scores[i]:.2g})" for i in self.chosen)
        rest = [scores[i] for i in range(len(scores)) if i not in self.chosen]
        log(f"  step {step + 1}: layers {shown} train; the others score at most {max(rest):.2g}")

    def _train(self, chosen: Sequence[int]) -> None:
        """Only these layers train from here on."""
        self.chosen = list(chosen)
        for i, parameters in enumerate(self.candidates):
            for parameter in parameters:
                parameter.requires_grad_(i in self.chosen)
                if i not in self.chosen and self.optimizer is not None:
                    self.optimizer.state.pop(parameter, None)

    def _scores(self, step: int) -> list[float]:
        """Relative gradient norm of every candidate, the mean over passes of at most ``batch_size`` rows."""
        count = min(self.config.select.sample_rows, len(self.examples))
        sample = [self.examples[i] for i in random.Random(f"select/{step}").sample(range(len(self.examples)), count)]
        passes = [sample[at : at + self.config.batch_size] for at in range(0, count, self.config.batch_size)]
        self.model.eval()  # no dropout: the measurement draws no random numbers
        totals = [0.0] * len(self.candidates)
        for rows in passes:
            for i, norm in enumerate(self._gradient_norms(rows)):
                totals[i] += norm / sum(e.weight * e.label_tokens for e in rows)
        weights = [torch.stack([p.detach().float().norm() for p in ps]).norm().item() for ps in self.candidates]
        return [t / len(passes) / max(w, 1e-12) for t, w in zip(totals, weights, strict=True)]

    def _gradient_norms(self, rows: Sequence[Example]) -> list[float]:
        device = next(self.model.parameters()).device
        squares = [torch.zeros((), device=device) for _ in self.candidates]
        hooks = []
        for i, parameters in enumerate(self.candidates):
            for parameter in parameters:
                parameter.requires_grad_(True)

                def take(p: Tensor, i: int = i) -> None:
                    assert p.grad is not None
                    squares[i] += p.grad.float().square().sum()
                    p.grad = None

                hooks.append(parameter.register_post_accumulate_grad_hook(take))  # type: ignore[no-untyped-call]
        try:
            self.loss_of(self.model, rows).backward()  # type: ignore[no-untyped-call]
        finally:
            for hook in hooks:
                hook.remove()
        return [s.sqrt().item() for s in squares]

    def _weights(self, chosen: Sequence[int]) -> int:
        return sum(p.numel() for i in chosen for p in self.candidates[i])
