"""Layers recompute only where the budget asks for it; the numbers are the same bits and less is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.invariants.test_training_step import rows, trainable
from tests.tiny import ARCHS
from tuneloop.models import available_bytes
from tuneloop.train import TrainConfig, objectives
from tuneloop.train.checkpointing import Recompute, planned
from tuneloop.train.sections import MemoryConfig


def step(model: torch.nn.Module, memory: MemoryConfig) -> tuple[float, list[Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass keeps for the backward pass."""
    model.train().zero_grad()
    objective = objectives.create(model, TrainConfig(memory=memory))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = objective(model, rows())
    held = sum(kept.values())
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None], held


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", ARCHS)
def test_recomputing_changes_no_bit(arch: str, method: str) -> None:
    model = trainable(arch, method)
    loss, gradients, _ = step(model, MemoryConfig(checkpointing="off"))
    again, recomputed, _ = step(model, MemoryConfig(checkpointing="on"))
    assert again == loss
    assert len(gradients) == len(recomputed) > 0
    assert all(torch.equal(a, b) for a, b in zip(gradients, recomputed, strict=True))


def test_recomputing_keeps_less() -> None:
    model = trainable("llama", "lora")
    assert step(model, MemoryConfig(checkpointing="on"))[2] < 0.7 * step(model, MemoryConfig(checkpointing="off"))[2]


def test_only_as_many_layers_recompute_as_the_budget_asks_for() -> None:
    """10 layers of 100 bytes a token and inputs of 10: five tokens keep 5,000 bytes when nothing is recomputed."""
    assert Recompute(100, 10, 5000).layers(5, 10) == 0
    assert Recompute(100, 10, 4999).layers(5, 10) == 2  # one: 5,050; two: 5 x (800 + 20 + 100) = 4,600
    assert Recompute(100, 10, 1450).layers(5, 10) == 9  # 5 x (100 + 90 + 100)
    assert Recompute(100, 10, 0).layers(5, 10) == 10
    assert Recompute(100, 10, None).layers(5, 10) == 10


def test_a_small_budget_recomputes_and_a_large_one_does_not() -> None:
    model = trainable("llama", "lora")
    small, large = (planned(model, MemoryConfig(budget_gb=gb)) for gb in (0.6, 60.0))
    assert small is not None
    assert large is not None
    assert small.layers(1000, 3) == 3
    assert large.layers(1000, 3) == 0


def test_a_run_without_a_budget_takes_what_is_free() -> None:
    free = available_bytes()
    found = planned(trainable("llama", "lora"), MemoryConfig())
    if free is None:
        assert found is None
    else:
        assert found is not None
        assert found.budget_bytes == pytest.approx(free, rel=0.2)
