from __future__ import annotations

import pytest

from tests.tiny import tiny_model
from tuneloop.errors import ConfigError
from tuneloop.train import LoraConfig, TrainConfig
from tuneloop.train.methods import METHODS


def test_a_target_of_another_family_is_explained() -> None:
    with pytest.raises(ConfigError, match="GPT-NeoX") as error:
        METHODS["lora"](tiny_model("llama", vocab_size=50), TrainConfig(lora=LoraConfig(targets=("query_key_value",))))
    assert "q_proj" in (error.value.hint or "")


def test_a_misspelt_target_is_an_error_that_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="qproj") as error:
        METHODS["lora"](tiny_model("llama", vocab_size=50), TrainConfig(lora=LoraConfig(targets=("qproj",))))
    assert "did you mean 'q_proj'?" in (error.value.hint or "")


def test_all_linear_leaves_the_head_alone_and_freezes_the_rest() -> None:
    model = METHODS["lora"](tiny_model("llama", vocab_size=50, layers=2), TrainConfig())
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2
    assert all("lora_" in n and "lm_head" not in n for n in trained)


def test_full_freezes_the_router_of_a_mixture_of_experts() -> None:
    model = METHODS["full"](tiny_model("deepseek_v3", vocab_size=50, layers=2), TrainConfig(method="full"))
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["model.layers.1.mlp.gate.weight"]


def test_words_of_other_tools_are_understood() -> None:
    from tuneloop.config import build

    loaded = build(TrainConfig, {"lora_rank": 8, "finetuning_type": "lora", "lora_target": "q_proj,v_proj"})
    assert loaded.value.lora.rank == 8
    assert loaded.value.lora.targets == ("q_proj", "v_proj")
    assert "lora_rank is read as lora.rank" in loaded.notes


def test_switches_of_other_tools_are_understood() -> None:
    from tuneloop.config import build

    loaded = build(TrainConfig, {"gradient_checkpointing": True, "torch_compile": False})
    assert (loaded.value.memory.checkpointing, loaded.value.memory.compile) == ("on", "off")
    assert "torch_compile is read as memory.compile" in loaded.notes
