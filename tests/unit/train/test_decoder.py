"""The parts of decoders that call them otherwise than Llama."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf
from torch import nn

from tests.tiny import tiny_model
from tuneloop.errors import ModelError
from tuneloop.train import TrainConfig
from tuneloop.train.methods import METHODS
from tuneloop.train.methods.decoder import last_norm, layers_of

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
MODELS = {
    "gpt2": (hf.GPT2Config, "transformer.h.", "transformer.ln_f."),
    "gpt_neox": (hf.GPTNeoXConfig, "gpt_neox.layers.", "gpt_neox.final_layer_norm."),
    "falcon": (hf.FalconConfig, "transformer.h.", "transformer.ln_f."),
    "opt": (hf.OPTConfig, "model.decoder.layers.", "model.decoder.final_layer_norm."),
    "bloom": (hf.BloomConfig, "transformer.h.", "transformer.ln_f."),
    "phi": (hf.PhiConfig, "model.layers.", "model.final_layernorm."),
}
every = pytest.mark.parametrize("name", MODELS)


def model_of(name: str) -> Any:
    return hf.AutoModelForCausalLM.from_config(MODELS[name][0](**SIZES))


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@every
def test_freeze_trains_the_last_layer_the_last_norm_and_the_head(name: str) -> None:
    model, (_, layers, norm) = model_of(name), MODELS[name]
    METHODS["freeze"](model, TrainConfig(method="freeze", freeze={"last_layers": 1}))
    groups = [f"{layers}2.", norm, "lm_head."]
    assert {next((g for g in groups if n.startswith(g)), n) for n in trained(model)} == set(groups)


@every
def test_select_trains_the_layers(name: str) -> None:
    model, (_, layers, _) = model_of(name), MODELS[name]
    METHODS["select"](model, TrainConfig(method="select", select={"layers": 2}))
    assert {n[: len(layers) + 2] for n in trained(model)} == {f"{layers}{i}." for i in range(3)}


def test_a_decoder_without_its_parts_is_named() -> None:
    model = tiny_model("llama", vocab_size=50, layers=3)
    model.model.after = model.model._modules.pop("norm")
    with pytest.raises(ModelError, match="LlamaForCausalLM has no norm of a known name"):
        last_norm(model)
    model.config.num_hidden_layers = 4
    with pytest.raises(ModelError, match="LlamaForCausalLM has no list of its 4 layers"):
        layers_of(model)
