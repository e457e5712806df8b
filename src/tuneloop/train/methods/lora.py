"""The LoRA family: low-rank adapters on the layers of any architecture.

lora     W + alpha / r B A                     Hu et al., 2021, arXiv:2106.09685
rslora   W + alpha / sqrt(r) B A               Kalajdzievski, 2023, arXiv:2312.03732
dora     m (W + alpha / r B A) / |W + ...|     Liu et al., 2024, arXiv:2402.09353; norm of each output's row
lora+    lora; B learns ``plus_ratio`` faster  Hayou et al., 2024, arXiv:2402.12354
qlora    lora over a base in 4 bits (NF4)      Dettmers et al., 2023, arXiv:2305.14314
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuneloop.errors import ConfigError, first_line, need
from tuneloop.models import add_adapter, quiet
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig
from tuneloop.train.methods.targets import Targets, coverage, linear_layers, resolve_targets

if TYPE_CHECKING:
    from torch import nn


def lora(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Low-rank adapters as ``config.method`` says; the base model is frozen and the start computes what it computes.

    Raises:
        ConfigError: A target that matches no layer (the message lists those that exist), or that PEFT refuses (Mamba's
            out_proj); DoRA or dropout where the adapted experts do not allow it.
    """
    peft = need("peft", "train")
    targets = resolve_targets(model, config.lora)
    _refuse_what_experts_cannot(model, config, targets)
    reached = coverage(model, targets)
    settings = peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in model.modules()),
        task_type="CAUSAL_LM",
    )
    there = ", ".join(sorted(linear_layers(model)))
    try:
        with quiet():
            adapted: nn.Module = add_adapter(model, settings)
    except ValueError as error:
        raise ConfigError(
            f"PEFT takes no adapters there: {first_line(error)}",
            where="train.lora.targets",
            hint=f"name others; this model has: {there}",
        ) from None
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    whole, *kinds = (f"{100 * share:.0f} % of {kind}" for kind, share in reached.items())
    log(f"  adapters: {trained:,} weights train; they reach {whole}: {', '.join(kinds)}")
    return adapted


def four_bit(config: TrainConfig) -> bool:
    """Whether the base model is to be loaded in 4 bits.

    Raises:
        ConfigError: There is no GPU for it, or stages before or after would merge adapters into the 4-bit weights.
    """
    phases = config.phases()
    if not any(phase.method == "qlora" for phase in phases):
        return False
    if any((phase.method, phase.lora) != (phases[0].method, phases[0].lora) for phase in phases):
        raise ConfigError(
            "qlora shares a run only with stages of the same adapter: nothing can be merged into 4-bit weights",
            where="train.stages",
            hint="use method: lora in every stage, or qlora in all of them with equal lora settings",
        )
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "qlora needs an NVIDIA GPU: bitsandbytes' 4-bit layers are made for it, and on a CPU they would only be slow",
            where="train.method",
            hint="use method: lora with a smaller model, or run it where there is a GPU",
        )
    need("bitsandbytes", "qlora")
    return True


def plus_scale(parameter: str, config: TrainConfig) -> float:
    """lora+: what the learning rate of a parameter is multiplied by."""
    return config.lora.plus_ratio if config.method == "lora+" and ".lora_B." in parameter else 1.0


def _refuse_what_experts_cannot(model: nn.Module, config: TrainConfig, targets: Targets) -> None:
    """Adapters on parameters know neither DoRA nor dropout; and see ``tuneloop.models.adapters`` for the dense layers."""
    mixture = any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules())
    if config.method == "dora" and mixture and (targets.parameters or _beside_experts(targets)):
        raise ConfigError(
            "dora works on the attention of a mixture of experts only: PEFT's adapters on expert layers have no magnitudes",
            where="train.lora.targets",
            hint="set train.lora.targets=attention, or use method: lora or rslora",
        )
    if config.lora.dropout and targets.parameters:
        raise ConfigError(
            "adapters on routed experts cannot have dropout: they change weights, and see no input to drop",
            where="train.lora.dropout",
            hint="set train.lora.dropout=0, or train.lora.experts=false",
        )


def _beside_experts(targets: Targets) -> bool:
    return any(name.rpartition(".")[2] in ("gate_proj", "up_proj", "down_proj") for name in targets.modules)
