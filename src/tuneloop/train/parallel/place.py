"""How a model lies on the processes of a run, and what that makes of one optimizer step.

``Placed`` is the ordinary case and the base of the others: every process holds the whole model, alone or beside replicas whose
gradients it sums (DDP). torch's own wrapper is not used: it averages where the loss needs a sum, must run every parameter
in every process, and fixes at its start which parameters train. The sum here comes after the backward pass instead of
beside it, which costs the time of one all-reduce of the trained weights a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tuneloop.errors import ConfigError
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig
from tuneloop.train.objectives import Objective
from tuneloop.train.optimise import build_optimizer
from tuneloop.train.parallel.gather import whole
from tuneloop.train.parallel.shares import Rows, shares
from tuneloop.train.parallel.world import ALONE, World

BUCKET = 25 * 2**20
"""Bytes of gradients that are summed in one message."""


class Placed:
    """Every process holds the whole model.

    Args:
        model: What trains.
        world: Who else does.
    """

    lockstep = False
    """Whether every pass is collective: a process without rows then computes a pass that counts nothing."""

    def __init__(self, model: nn.Module, world: World = ALONE) -> None:
        self.model, self.world = model, world
        self._parameters: list[nn.Parameter] = []

    def optimizer(self, parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        """The optimizer of this process's part."""
        return build_optimizer(parameters, config)

    def passes(self, micro_batches: Sequence[Rows]) -> Iterator[tuple[Rows, bool]]:
        """This process's passes of a step, each with whether it counts."""
        if self.world.alone:
            yield from ((micro, True) for micro in micro_batches)
            return
        dealt = shares(micro_batches, self.world.size)
        own = dealt[self.world.rank]
        yield from ((rows, True) for rows in own)
        if self.lockstep:
            spare = [min((r for m in micro_batches for r in m), key=lambda r: len(r.input_ids))]
            yield from ((spare, False) for _ in range(max(map(len, dealt)) - len(own)))

    def loss(self, objective: Objective, rows: Rows) -> Tensor:
        """Summed loss of one pass."""
        return objective(self.model, rows)

    def total(self, loss: float) -> float:
        """The loss of the step, when every process has that of its own passes."""
        return self.world.sum([loss])[0]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a part of the loss of the whole step."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
        """Sum the gradients over the processes, clip and step, unless they are not finite.

        Returns:
            The norm of the whole gradient before clipping, the same in every process.
        """
        self._parameters = self._parameters or list(self.model.parameters())  # to walk the modules takes milliseconds
        trained = [p for p in self._parameters if p.requires_grad]
        with self.world.guarded():
            self.sum_gradients(trained)
            norm = float(whole(torch.nn.utils.clip_grad_norm_(trained, max_grad_norm)))
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def sum_gradients(self, trained: Sequence[nn.Parameter]) -> None:
        """Make the gradients those of the whole step."""
        if not self.world.alone:
            sum_gradients(trained)

    @torch.no_grad()
    def evaluate(self, objective: Objective, batches: Sequence[Rows]) -> float:
        """Summed loss of all batches, each computed by one process."""
        total = 0.0
        size = self.world.size
        for at in range(0, len(batches), size):
            mine = at + self.world.rank
            if mine < len(batches):
                total += self.loss(objective, batches[mine]).item()
            elif self.lockstep:
                self.loss(objective, batches[at])
        return self.world.sum([total])[0]

    def restore(self) -> nn.Module:
        """An ordinary model with the trained weights, whole in every process."""
        return self.model


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Make every gradient its sum over the processes, added in float32. One that no process has stays None."""
    from torch import distributed as dist

    has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    dist.all_reduce(has)
    for bucket in _buckets([p for p, n in zip(parameters, has.tolist(), strict=True) if n]):
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
        flat = torch.cat([g.flatten().float() for g in grads])
        dist.all_reduce(flat)
        at = 0
        for parameter, grad in zip(bucket, grads, strict=True):
            parameter.grad = grad.copy_(flat[at : at + grad.numel()].view_as(grad))
            at += grad.numel()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one device, in messages of at most ``BUCKET`` bytes (a larger parameter goes alone)."""
    bucket: list[nn.Parameter] = []
    held = 0
    for parameter in parameters:
        size = 4 * parameter.numel()
        if bucket and (held + size > BUCKET or parameter.device != bucket[0].device):
            yield bucket
            bucket, held = [], 0
        bucket.append(parameter)
        held += size
    if bucket:
        yield bucket


def place(model: nn.Module, config: TrainConfig, world: World) -> Placed:
    """Lay a prepared model out as ``train.parallel`` says.

    Raises:
        ConfigError: The method or an option does not go with the strategy.
        MissingExtraError: DeepSpeed is asked for and not installed.
    """
    kind = config.parallel.kind
    if world.alone and kind != "deepspeed":
        return Placed(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    world.same_start(trained)
    if not world.is_main and kind != "tensor":  # the model is everybody's; dropout is each one's own
        torch.manual_seed(torch.initial_seed() + world.rank)
    if kind == "ddp":
        return Placed(model, world)
    _check(config)
    if kind == "fsdp":
        from tuneloop.train.parallel.fsdp import Sharded

        return Sharded(model, world, config.parallel)
    if kind == "tensor":
        from tuneloop.train.parallel.tensor import Cut

        return Cut(model, world)
    from tuneloop.train.parallel.zero import Zero

    return Zero(model, world, config)


def suited(config: TrainConfig, world: World) -> TrainConfig:
    """The configuration of a stage as several processes can do it."""
    if world.alone or not (config.trains_last_layers and config.memory.cache_activations):
        return config
    log("  note: activations are not cached: other processes would need other rows of the cache in each epoch")
    return config.model_copy(update={"memory": config.memory.model_copy(update={"cache_activations": False})})


def loading(config: TrainConfig, world: World, dtype: str) -> tuple[str, str]:
    """dtype and device to load with: parts are cut on the CPU, so a GPU never holds the whole model."""
    kind = config.parallel.kind
    if kind == "ddp" or (kind == "fsdp" and world.alone):
        return dtype, "auto"
    if dtype == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        dtype = "bfloat16"
    return dtype, "cpu"


def _check(config: TrainConfig) -> None:
    """What was not shown to give the same numbers on parts of layers is refused."""
    kind = config.parallel.kind
    refused = {
        "method: select, which changes what trains on the way,": config.method == "select",
        f"method: {config.method}": config.method in ("qlora", "prefix", "prompt"),
        "objective: distil": config.objective == "distil",
        "validation.samples": config.validation.samples > 0,
        "optimizer.name: adamw_8bit": config.optimizer.name == "adamw_8bit",
        f"method: {config.method} (tensor parallel trains full and freeze)": kind == "tensor"
        and config.method not in ("full", "freeze"),
        "optimizer.ema_decay": kind in ("deepspeed", "tensor") and config.optimizer.ema_decay > 0,
    }
    for what, asked in refused.items():
        if asked:
            raise ConfigError(
                f"{what} does not go with parallel.strategy={kind}",
                where="train.parallel.strategy",
                hint="use strategy: ddp, or leave it out",
            )
