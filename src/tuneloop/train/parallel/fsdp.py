"""FSDP2: every process holds a part of every tensor; a layer is whole only while it computes.

Objectives call the decoder and the output head one after another and not ``model.forward``. So the root is a module whose
forward *is* the objective: embedding, last norm and head (also when tied) belong to it and stay whole from its beginning to the
end of its backward pass, and each decoder layer is a group of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuneloop.errors import ModelError
from tuneloop.models import backbone
from tuneloop.train.objectives import Objective
from tuneloop.train.parallel.gather import whole
from tuneloop.train.parallel.place import Placed
from tuneloop.train.parallel.shares import Rows
from tuneloop.train.parallel.world import World
from tuneloop.train.sections import ParallelConfig


class Whole(nn.Module):
    """A model whose forward computes an objective."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, objective: Objective, rows: Rows) -> Tensor:
        """Summed loss of the rows."""
        return objective(self.model, rows)


class Sharded(Placed):
    """A model in parts.

    Args:
        model: Whole, on the CPU; its tensors are cut in place.
        world: The processes that hold the parts.
        config: Offloading.

    Raises:
        ModelError: The decoder has no list of layers.
    """

    lockstep = True

    def __init__(self, model: nn.Module, world: World, config: ParallelConfig) -> None:
        super().__init__(model, world)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        device = "cuda" if torch.cuda.is_available() else "cpu"
        options: dict[str, Any] = {
            "mesh": init_device_mesh(device, (world.size,)),
            "offload_policy": CPUOffloadPolicy() if config.cpu_offload and device == "cuda" else OffloadPolicy(),
        }
        self.skeleton = skeleton(model)
        self.root = Whole(model)
        for layer in decoder_layers(model):
            fully_shard(layer, **options)
        fully_shard(self.root, reshard_after_forward=False, **options)

    def loss(self, objective: Objective, rows: Rows) -> Tensor:
        with self.world.guarded():
            loss: Tensor = self.root(objective, rows)
        return loss

    def backward(self, loss: Tensor) -> None:
        """FSDP2 averages over the processes; the loss of a step is a sum."""
        with self.world.guarded():
            super().backward(loss * self.world.size)

    def sum_gradients(self, trained: Sequence[nn.Parameter]) -> None:
        """Done already: each backward pass leaves the sum in the parts."""

    def restore(self) -> nn.Module:
        with self.world.guarded():
            return fleshed_out(self.skeleton, self.model)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of layers of the decoder.

    Raises:
        ModelError: There is none.
    """
    layers = getattr(backbone(model), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            f"{type(backbone(model)).__name__} has no list of layers to cut", hint="use train.parallel.strategy=ddp"
        )
    return layers


def skeleton(model: nn.Module) -> nn.Module:
    """The model's structure without weights: a copy on the meta device that shares what the model shares.

    What cuts a model changes its classes and hooks; a model to save or to go on with is the skeleton with weights.
    """
    bones: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, bones)


@torch.no_grad()
def fleshed_out(bones: nn.Module, model: nn.Module) -> nn.Module:
    """The skeleton with the whole weights of a model in parts, on the CPU, in every process."""
    made: dict[int, nn.Parameter] = {}
    held = dict(model.named_parameters(remove_duplicate=False))
    for prefix, module in bones.named_modules():
        for name, bone in module._parameters.items():
            if bone is None:
                continue
            if id(bone) not in made:
                full = whole(held[f"{prefix}.{name}" if prefix else name]).detach().cpu().to(bone.dtype)
                made[id(bone)] = nn.Parameter(full.clone(), requires_grad=bone.requires_grad)
            module._parameters[name] = made[id(bone)]
    return bones.train(model.training)
