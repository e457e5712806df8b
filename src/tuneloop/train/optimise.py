"""The optimizer, its groups, its schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tuneloop.errors import ConfigError, need
from tuneloop.train.config import TrainConfig
from tuneloop.train.methods import learning_rate_scale


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that trains, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def build_optimizer(parameters: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over groups of one decay and one scale of the rate each. Vectors (biases, norms) do not decay.

    Raises:
        ConfigError: 8-bit moments without a GPU.
    """
    settings = config.optimizer
    groups: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
    for name, parameter in parameters.items():
        decay = settings.weight_decay if parameter.dim() >= 2 else 0.0
        groups[decay, learning_rate_scale(name, config)].append(parameter)
    described = [{"params": ps, "weight_decay": d, "scale": s} for (d, s), ps in groups.items()]
    options = {"lr": config.peak_learning_rate, "betas": (settings.beta1, settings.beta2)}
    if settings.name == "adamw":
        return torch.optim.AdamW(described, fused=True, **options)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        raise ConfigError(
            "8-bit moments need a GPU", where="train.optimizer.name", hint="use adamw; or method: lora, which has few"
        )
    made: torch.optim.Optimizer = need("bitsandbytes", "qlora").optim.AdamW8bit(described, **options)
    return made


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Rate of step ``step`` (from 0): linear warm-up, then the schedule, reaching zero after the last step."""
    settings, peak = config.optimizer, config.peak_learning_rate
    warmup = settings.warmup_steps if settings.warmup_steps is not None else math.ceil(steps * settings.warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "wsd":
        falling = max(1, math.ceil(steps * settings.decay_ratio))
        return peak * min(1.0, (steps - step) / falling)
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 - done) if settings.schedule == "linear" else peak * 0.5 * (1 + math.cos(math.pi * done))
