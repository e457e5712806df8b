"""Between whole tensors and the parts that a process holds.

A checkpoint holds whole tensors, whoever wrote it: any number of processes can go on from it, under any strategy. The price is
memory: the main process gathers every trained weight and moment in host memory while it writes (12 bytes a trained
parameter in float32), one tensor at a time passes through the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def is_part(tensor: Any) -> bool:
    """Whether this is a process's part of a tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def is_zero(tensor: Any) -> bool:
    """Whether DeepSpeed holds it."""
    return hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping")


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which each process holds a part. Collective for parts, free for others."""
    if is_zero(tensor):
        from tuneloop.train.parallel.zero import whole_parameter

        return whole_parameter(tensor)
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def whole_tree(tree: Any, *, keep: bool = True) -> Any:
    """The same for every tensor in nested containers, on the CPU; without ``keep`` only takes part in the gathering."""
    if isinstance(tree, Tensor):
        if not is_part(tree):
            return tree
        full = whole(tree)
        return full.cpu() if keep else None
    if isinstance(tree, Mapping):
        return {k: whole_tree(v, keep=keep) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tree(v, keep=keep) for v in tree)
    return tree


def like(held: Tensor, full: Tensor) -> Tensor:
    """This process's part of ``full``, cut as ``held`` is."""
    if not is_part(held):
        return full
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(held, DTensor)
    placed = full.to(held.device, held.dtype)
    return distribute_tensor(placed, held.device_mesh, held.placements, src_data_rank=None)


@torch.no_grad()
def fill(held: Tensor, full: Tensor) -> None:
    """Copy a whole tensor into what this process holds of it."""
    if is_zero(held):
        from tuneloop.train.parallel.zero import fill_parameter

        fill_parameter(held, full)
        return
    held.copy_(like(held, full))


def cut_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's saved state with its moments cut as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(is_part(p) for p in parameters):
        return state
    cut = {
        i: {k: like(parameters[i], v) if isinstance(v, Tensor) and v.shape == parameters[i].shape and v.dim() else v
            for k, v in moments.items()}
        for i, moments in state["state"].items()
    }  # fmt: skip
    return {**state, "state": cut}
