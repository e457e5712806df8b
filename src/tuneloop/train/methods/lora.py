"""The LoRA family: low-rank adapters on the layers of any architecture."""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ConfigError, need
from tuneloop.models import quiet
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig
from tuneloop.train.sections import LoraConfig

if TYPE_CHECKING:
    from torch import nn

TUTORIAL_TARGETS = {
    "query_key_value": "is a layer of GPT-NeoX, BLOOM and old ChatGLM; DeepSeek, Qwen and Llama have q_proj, k_proj, v_proj",
    "c_attn": "is a layer of GPT-2 and the first Qwen; DeepSeek, Qwen2 and Llama have q_proj, k_proj, v_proj",
    "W_pack": "is a layer of Baichuan; DeepSeek, Qwen and Llama have q_proj, k_proj, v_proj",
}


def lora(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Low-rank adapters on linear layers.

    Raises:
        ConfigError: A target that matches no layer; the message lists those that exist.
    """
    peft = need("peft", "train")
    targets = _targets(model, config.lora)
    settings = peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with quiet():
        adapted: nn.Module = peft.get_peft_model(model, settings)
    _say_coverage(model, targets)
    return adapted


def linear_layers(model: nn.Module) -> Counter[str]:
    """Last name part of every linear layer but the output head -> how many there are."""
    from torch import nn

    named: Any = model
    head = named.get_output_embeddings()
    return Counter(
        name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head
    )


def _targets(model: nn.Module, config: LoraConfig) -> list[str]:
    there = linear_layers(model)
    if config.targets == "all-linear":
        return sorted(there)
    for target in config.targets:
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules()):
            near = difflib.get_close_matches(target, there, 1)
            why = (
                f"{target!r} {TUTORIAL_TARGETS[target]}"
                if target in TUTORIAL_TARGETS
                else f"{target!r} matches no layer"
            )
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(why, where="train.lora.targets", hint=f"{hint}this model has: {', '.join(sorted(there))}")
    return list(config.targets)


def _say_coverage(model: nn.Module, targets: list[str]) -> None:
    """How much of the model the adapters reach; experts are 3-D parameters that linear targets miss."""
    total = sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    reached = sum(p.numel() for n, p in model.named_parameters() if ".base_layer." in n and "lora_" not in n)
    log(
        f"  adapters on {', '.join(targets)}: {trained:,} weights train; they reach {100 * reached / total:.0f} % of the model"
    )
    missed = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 3 and ".base_layer." not in n)
    if missed:
        log(f"  note: the experts ({100 * missed / total:.0f} % of the weights) are not adapted")
