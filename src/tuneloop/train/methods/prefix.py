"""Prefix and prompt tuning: virtual tokens in front of every row, the model's own weights untouched.

prefix   trained keys and values in every layer (Li & Liang, 2021, arXiv:2101.00190; without their MLP)
prompt   trained embeddings that run through the model (Lester et al., 2021, arXiv:2104.08691)

Both begin with real tokens of the vocabulary, drawn at random: Li & Liang (section 7.4) and Lester et al. (section 3.2)
found that better than random numbers, also when the tokens have nothing to do with the task. The result is an adapter in
PEFT's format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tuneloop.errors import ConfigError, first_line, need
from tuneloop.models import quiet, use_own
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn


def prefix(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Trained keys and values in every layer.

    Raises:
        ConfigError: Latent attention (DeepSeek-V2, V3), layers without keys and values (Mamba, linear attention), or more
            tokens than the model's positions.
    """
    peft = need("peft", "train")
    inner: Any = model
    text = inner.config.get_text_config()
    if getattr(text, "kv_lora_rank", None):
        raise _no_prefix(
            model,
            "keeps latents instead of keys and values (latent attention), and PEFT's prefix format holds keys and values of "
            "one shape",
        )
    _check_room(model, config)
    start_PW = _keys_and_values(model, config.prefix.tokens)
    settings = peft.PrefixTuningConfig(num_virtual_tokens=config.prefix.tokens, task_type="CAUSAL_LM")
    adapted = _adapted(model, settings)
    weight = adapted.prompt_encoder[adapted.active_adapter].embedding.weight
    if weight.shape != start_PW.shape:
        wide = f"{start_PW.shape[1]:,} numbers, and PEFT counts {weight.shape[1]:,} from its configuration"
        raise _no_prefix(model, f"keeps keys and values of another width than PEFT (a token has {wide})")
    with torch.no_grad():
        weight.copy_(start_PW.to(weight.dtype))
    return _said(adapted, config)


def prompt(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Trained embeddings in front of every row.

    Raises:
        ConfigError: More tokens than the model's positions.
    """
    peft = need("peft", "train")
    _check_room(model, config)
    settings = peft.PromptTuningConfig(
        num_virtual_tokens=config.prefix.tokens, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM"
    )
    return _said(_adapted(model, settings), config)


def _adapted(model: nn.Module, settings: Any) -> Any:
    try:
        with quiet():
            return need("peft", "train").get_peft_model(model, settings)
    except ValueError as error:  # it cannot read the sizes of this architecture
        raise ConfigError(
            f"PEFT takes no virtual tokens for {type(model).__name__}: {first_line(error)}",
            where="train.method",
            hint="use method: lora",
        ) from None


def _no_prefix(model: nn.Module, why: str) -> ConfigError:
    return ConfigError(f"{type(model).__name__} {why}", where="train.method", hint="use method: prompt, or lora")


def _check_room(model: nn.Module, config: TrainConfig) -> None:
    inner: Any = model
    positions = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    if positions and config.prefix.tokens >= positions:
        raise ConfigError(
            f"{config.prefix.tokens} virtual tokens fill the model's {positions} positions",
            where="train.prefix.tokens",
            hint="use fewer; 20 to 100 are usual",
        )


@torch.no_grad()
def _keys_and_values(model: nn.Module, tokens: int) -> torch.Tensor:
    """What random tokens give every layer, in PEFT's order: tokens x (layer, key or value, head, width)."""
    inner: Any = model
    use_own(model)  # an earlier stage may have left the flat one
    ids = torch.randint(0, inner.config.get_text_config().vocab_size, (1, tokens))
    device = next(model.parameters()).device
    held = getattr(inner.eval()(input_ids=ids.to(device), use_cache=True), "past_key_values", None)
    if held is None or any(getattr(layer, "keys", None) is None for layer in held.layers):
        raise _no_prefix(model, "has layers that keep no keys and values to begin with")
    # of each layer (1, G, P, D) twice -> P x (2 G D)
    parts = [x[0].transpose(0, 1).flatten(1) for layer in held.layers for x in (layer.keys, layer.values)]
    return torch.cat(parts, 1)


def _said(model: Any, config: TrainConfig) -> nn.Module:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log(
        f"  {config.prefix.tokens} virtual tokens: {trained:,} weights train ({100 * trained / total:.2g} % of the model)"
    )
    adapted: nn.Module = model
    return adapted
