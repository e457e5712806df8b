"""Virtual tokens on architectures that PEFT or its format cannot serve: refused in two lines."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf

from tuneloop.errors import ConfigError
from tuneloop.train import TrainConfig
from tuneloop.train.methods import METHODS

COMMON = {"vocab_size": 50, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            hf.FalconConfig(**COMMON, multi_query=True),
            "FalconForCausalLM keeps keys and values of another width than PEFT",
        ),
        (
            hf.Lfm2Config(**COMMON, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
            "Lfm2ForCausalLM has layers that keep no keys and values",
        ),
        (
            hf.MptConfig(vocab_size=50, d_model=32, n_heads=4, n_layers=2),
            "PEFT takes no virtual tokens for MptForCausalLM",
        ),
    ],
    ids=["falcon", "lfm2", "mpt"],
)
def test_what_cannot_take_a_prefix_is_named_with_what_can(config: Any, why: str) -> None:
    model = hf.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ConfigError, match=why) as caught:
        METHODS["prefix"](model, TrainConfig(method="prefix", prefix={"tokens": 4}))
    assert "lora" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", [hf.GPT2Config, hf.GPTNeoXConfig, hf.OPTConfig])
def test_keys_and_values_of_every_head_take_a_prefix(kind: Any) -> None:
    model = hf.AutoModelForCausalLM.from_config(kind(**COMMON))
    METHODS["prefix"](model, TrainConfig(method="prefix", prefix={"tokens": 4}))
