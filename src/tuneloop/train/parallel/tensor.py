"""Tensor parallel: every process holds a part of every large matrix, and all compute the same rows together.

Which matrices are cut, and how, is transformers' plan of the architecture (``base_model_tp_plan``); its hooks exchange
activations where a cut needs it. What no plan names (norms, latent projections), the embedding and the output head are
whole in every process and get the same gradient in each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuneloop.errors import ModelError
from tuneloop.train.config import TrainConfig
from tuneloop.train.objectives import Objective
from tuneloop.train.parallel.fsdp import fleshed_out, skeleton
from tuneloop.train.parallel.gather import is_part
from tuneloop.train.parallel.place import Placed
from tuneloop.train.parallel.shares import Rows
from tuneloop.train.parallel.world import World


class Cut(Placed):
    """A model whose matrices are cut.

    Args:
        model: Whole; its tensors are cut in place.
        world: The processes that hold the parts.

    Raises:
        ModelError: transformers has no plan for this architecture, or it does not divide by the number of processes.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        super().__init__(model, world)
        from torch.distributed.device_mesh import init_device_mesh
        from transformers.distributed.tensor_parallel import apply_tensor_parallelism

        chosen = plan(model)
        self.skeleton = skeleton(model)
        mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world.size,))
        try:
            apply_tensor_parallelism(model, mesh, chosen)
        except ValueError as error:
            raise ModelError(
                f"this model cannot be cut for {world.size} processes: {error}",
                hint="use strategy: fsdp, or as many processes as its heads can be dealt to",
            ) from error

    def optimizer(self, parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        """Tensor by tensor: PyTorch's fused kernels take no mixture of parts and whole tensors."""
        built = super().optimizer(parameters, config)
        for group in built.param_groups:
            group["fused"] = group["foreach"] = False
        return built

    def passes(self, micro_batches: Sequence[Rows]) -> Iterator[tuple[Rows, bool]]:
        """All rows in every process."""
        yield from ((micro, True) for micro in micro_batches)

    def total(self, loss: float) -> float:
        """Every process has the loss of all rows already."""
        return loss

    def update(self, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
        """Clip by the norm over all parts and step, unless it is not finite."""
        trained = [p for p in self.model.parameters() if p.requires_grad and p.grad is not None]
        with self.world.guarded():
            norm = self._norm([p.grad for p in trained if p.grad is not None])
        if math.isfinite(norm):
            for parameter in trained:
                parameter.grad.mul_(min(1.0, max_grad_norm / (norm + 1e-6)))  # type: ignore[union-attr]
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _norm(self, gradients: Sequence[Tensor]) -> float:
        """Parts are added up over the processes, whole gradients counted once."""
        parts = sum(float(_local(g).square().sum(dtype=torch.float64)) for g in gradients if is_part(g))
        own = sum(float(g.square().sum(dtype=torch.float64)) for g in gradients if not is_part(g))
        return math.sqrt(self.world.sum([parts])[0] + own)

    @torch.no_grad()
    def evaluate(self, objective: Objective, batches: Sequence[Rows]) -> float:
        return sum(self.loss(objective, batch).item() for batch in batches)

    def restore(self) -> nn.Module:
        with self.world.guarded():
            return fleshed_out(self.skeleton, self.model)


def _local(tensor: Any) -> Tensor:
    part: Tensor = tensor.to_local()
    return part


def plan(model: nn.Module) -> dict[str, str]:
    """Name of every module and parameter that is cut -> transformers' word for how.

    Only the decoder layers are cut: the losses here take embedding and output head as they are, so these stay whole.

    Raises:
        ModelError: There is no plan.
    """
    from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard

    wanted: dict[str, str] = getattr(model, "tp_plan", None) or {}

    def style(name: str) -> str | None:
        return wanted.get(replace_layer_number_by_wildcard(name)) if ".layers." in f".{name}" else None

    found = {name: how for name, _ in model.named_modules() if (how := style(name))}
    for name, _ in model.named_parameters():
        if how := style(name) or found.get(name.rpartition(".")[0]):
            found[name] = how
    if not found:
        raise ModelError(
            f"transformers has no tensor-parallel plan for {type(model).__name__}", hint="use strategy: fsdp"
        )
    return found
