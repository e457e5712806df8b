"""DeepSpeed ZeRO: moments (1), gradients (2) and weights (3) in parts, also in host memory.

DeepSpeed computes, sums, clips and steps; the plan, the schedule and the checkpoints stay ours. So a checkpoint holds
whole tensors in the ordinary format, and any number of processes goes on from it, with or without DeepSpeed.
Its first start on a machine compiles its CPU operators (ninja and a C++ compiler; about three minutes).
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuneloop.errors import ConfigError, need
from tuneloop.rundir import read_json
from tuneloop.train.config import TrainConfig
from tuneloop.train.objectives import Objective
from tuneloop.train.optimise import build_optimizer
from tuneloop.train.parallel.fsdp import Whole, fleshed_out, skeleton
from tuneloop.train.parallel.place import Placed
from tuneloop.train.parallel.shares import Rows
from tuneloop.train.parallel.world import World

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero3_offload": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}
"""Sections ``zero_optimization``; everything else is DeepSpeed's default."""

OURS = {
    "optimizer": "train.optimizer",
    "scheduler": "train.optimizer.schedule",
    "fp16": "model.dtype",
}
"""Sections of a DeepSpeed file that this program decides, and where."""

MOMENTS = ("exp_avg", "exp_avg_sq")


def settings(config: TrainConfig, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration: the preset or the file, with what the loop decides filled in.

    Raises:
        ConfigError: An unknown preset, or a file that decides what is decided here.
        DataError: The file is missing or not JSON.
    """
    name = str(config.parallel.deepspeed)
    if name in PRESETS:
        made: dict[str, Any] = {"zero_optimization": json.loads(json.dumps(PRESETS[name]))}
    elif name.endswith(".json"):
        made = _without_auto(read_json(Path(name)))
        _check(made, name)
    else:
        raise ConfigError(
            f"{name!r} is no preset of DeepSpeed",
            where="train.parallel.deepspeed",
            hint=f"use {', '.join(PRESETS)}, or the path of a .json file",
        )
    for decided in ("train_batch_size", "fp16", "bf16"):
        made.pop(decided, None)
    made |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "zero_allow_untested_optimizer": True,
    }
    if dtype == torch.bfloat16:
        made["bf16"] = {"enabled": True}
    return made


def _without_auto(tree: Any) -> Any:
    """Without the entries that Hugging Face's integration fills in."""
    if isinstance(tree, dict):
        return {k: _without_auto(v) for k, v in tree.items() if v != "auto"}
    return tree


def _check(made: Any, name: str) -> None:
    if not isinstance(made, dict) or not isinstance(made.get("zero_optimization"), dict):
        raise ConfigError("there is no section zero_optimization", where=name, hint="or use a preset: zero3")
    for section, where in OURS.items():
        found = made.get(section)
        if found and not (section == "fp16" and not found.get("enabled")):
            raise ConfigError(
                f"{section!r} would be decided twice", where=name, hint=f"leave it out there; it is set by {where}"
            )
    if "nvme" in json.dumps(made["zero_optimization"]):
        raise ConfigError(
            "moments on NVMe cannot be put into a checkpoint here", where=name, hint="use device: cpu, or zero3_offload"
        )


class Zero(Placed):
    """A model that DeepSpeed holds.

    Args:
        model: Whole, on the CPU.
        world: The processes.
        config: Of the run.

    Raises:
        ConfigError: See ``settings``.
        MissingExtraError: DeepSpeed is not installed.
    """

    lockstep = True

    def __init__(self, model: nn.Module, world: World, config: TrainConfig) -> None:
        super().__init__(model, world)
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        self.deepspeed: Any = need("deepspeed", "deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # DeepSpeed 0.19 calls collectives by names that torch 2.13 is giving up
        warnings.filterwarnings("ignore", message=".*torch.distributed.*deprecated", category=FutureWarning)
        self.settings = settings(config, next(p.dtype for p in model.parameters() if p.is_floating_point()))
        self.skeleton = skeleton(model)
        self.engine: Any = None

    def optimizer(self, parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> Any:
        plain = build_optimizer(parameters, config)
        inner: Any = plain
        if self.settings["zero_optimization"].get("offload_optimizer", {}).get("device") == "cpu":
            adam = need("deepspeed.ops.adam", "deepspeed").DeepSpeedCPUAdam
            groups = [{k: g[k] for k in ("params", "weight_decay", "scale")} for g in plain.param_groups]
            inner = adam(groups, lr=0.0, betas=plain.defaults["betas"], eps=plain.defaults["eps"], adamw_mode=True)
        layout = Moments(plain, self.world)
        if self.world.alone:
            _process_group_of_one()
        self.engine, held, *_ = self.deepspeed.initialize(
            model=Whole(self.model), optimizer=inner, model_parameters=list(parameters.values()), config=self.settings
        )
        layout.held = held
        return layout

    def passes(self, micro_batches: Sequence[Rows]) -> Iterator[tuple[Rows, bool]]:
        own = list(super().passes(micro_batches))
        for number, (rows, counts) in enumerate(own, 1):
            self.engine.set_gradient_accumulation_boundary(number == len(own))
            yield rows, counts

    def loss(self, objective: Objective, rows: Rows) -> Tensor:
        self.engine.train(self.model.training)
        with self.world.guarded():
            loss: Tensor = self.engine(objective, rows)
        return loss

    def backward(self, loss: Tensor) -> None:
        """DeepSpeed averages over the processes; the loss of a step is a sum."""
        with self.world.guarded():
            self.engine.backward(loss * self.world.size)

    def update(self, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
        with self.world.guarded():
            self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def restore(self) -> nn.Module:
        with self.world.guarded():
            model = fleshed_out(self.skeleton, self.model)
        self.engine.destroy()
        return model


class Moments:
    """DeepSpeed's optimizer as the loop and the checkpoint know one: groups, and the state of an ordinary AdamW.

    Args:
        plain: The AdamW that would have been used.
        world: The main process keeps what is gathered.
    """

    def __init__(self, plain: torch.optim.Optimizer, world: World) -> None:
        self.parameters = [p for group in plain.param_groups for p in group["params"]]
        self.groups = plain.state_dict()["param_groups"]
        self.world = world
        self.held: Any = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """DeepSpeed's own; the loop sets their rates."""
        groups: list[dict[str, Any]] = self.held.param_groups
        return groups

    def state_dict(self) -> dict[str, Any]:
        """Whole moments in the main process. Collective."""
        self._link()
        read = need("deepspeed.utils", "deepspeed").safe_get_full_optimizer_state
        steps = [s["step"] for s in self.held.optimizer.state.values() if "step" in s]
        state: dict[int, dict[str, Any]] = {}
        for i, parameter in enumerate(self.parameters):
            full = {name: read(parameter, name) for name in MOMENTS}
            if self.world.is_main:
                state[i] = {name: tensor.detach().cpu().clone() for name, tensor in full.items()}
                state[i]["step"] = torch.tensor(float(steps[0]))
        return {"state": state, "param_groups": self.groups}

    def _link(self) -> None:
        """ZeRO 1 and 2 find moments through links that are set after the step of the first group, when the moments of the
        other groups are not there yet (0.19.8): set them again."""
        if hasattr(self.held, "_hp_optimizer_states_linked"):
            self.held._hp_optimizer_states_linked = False
            self.held._lazy_init_hp_params_optimizer_state()

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take this process's part of whole moments."""
        inner = self.held.optimizer
        steps = float(next(iter(saved["state"].values()))["step"])
        counts = int(steps) if type(inner).__name__ == "DeepSpeedCPUAdam" else None
        flat = getattr(self.held, "fp32_partitioned_groups_flat", None) or self.held.single_partition_of_fp32_groups
        for part in flat:  # DeepSpeed makes them at its first step
            fresh = {name: torch.zeros_like(part) for name in MOMENTS}
            inner.state[part] = {"step": counts if counts is not None else torch.tensor(steps), **fresh}
        self._link()
        for i, parameter in enumerate(self.parameters):
            for name in MOMENTS:
                _set(parameter, saved["state"][i][name], name)


def whole_parameter(parameter: Any) -> Tensor:
    """A parameter that DeepSpeed holds, whole; of one that trains its float32 master. Collective."""
    library, utils = need("deepspeed", "deepspeed"), need("deepspeed.utils", "deepspeed")
    if hasattr(parameter, "_hp_mapping") or (parameter.requires_grad and hasattr(parameter, "_z3_optimizer")):
        master: Tensor = utils.safe_get_full_fp32_param(parameter)
        return master.detach()
    with library.zero.GatheredParameters([parameter]):
        copied: Tensor = parameter.detach().clone()
    return copied


@torch.no_grad()
def fill_parameter(parameter: Any, full: Tensor) -> None:
    """Set a parameter that DeepSpeed holds, and its float32 master."""
    if hasattr(parameter, "ds_tensor"):
        parameter.ds_tensor.data.copy_(_own(parameter, full))
    else:
        parameter.data.copy_(full)
    _set(parameter, full.float())


def _set(parameter: Any, full: Tensor, moment: str | None = None) -> None:
    """Set this process's part of the float32 master, or of a moment."""
    if hasattr(parameter, "ds_tensor"):
        parameter._z3_optimizer.set_local_hp_param(_own(parameter, full), parameter, moment)
    else:
        parameter.set_full_hp_param(full.to(parameter.device), moment)


def _own(parameter: Any, full: Tensor) -> Tensor:
    """This process's part of a flat tensor, the last one padded, as ZeRO 3 cuts it."""
    size = parameter.ds_tensor.numel()
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    part = full.new_zeros(size)
    there = full.flatten()[rank * size : (rank + 1) * size]
    part[: len(there)] = there
    return part.to(parameter.ds_tensor.device)


def _process_group_of_one() -> None:
    """DeepSpeed wants processes to talk to, also for offloading from a single one."""
    from torch import distributed as dist
    from torch._C._distributed_c10d import HashStore

    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
