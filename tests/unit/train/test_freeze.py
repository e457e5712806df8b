from __future__ import annotations

from typing import Any

import pytest

from tests.tiny import tiny_model
from tuneloop.errors import ConfigError
from tuneloop.train import TrainConfig
from tuneloop.train.methods import METHODS
from tuneloop.train.sections import FreezeConfig


def trained(arch: str = "llama", *, layers: int = 3, tied: bool = False, **freeze: Any) -> set[str]:
    model = tiny_model(arch, vocab_size=50, layers=layers, tie_word_embeddings=tied)  # type: ignore[arg-type]
    METHODS["freeze"](model, TrainConfig(method="freeze", freeze=FreezeConfig(**freeze)))
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_last_layers_the_last_norm_and_the_head_train() -> None:
    names = trained(last_layers=2)
    assert {n.split(".")[2] for n in names if ".layers." in n} == {"1", "2"}
    assert {n for n in names if ".layers." not in n} == {"model.norm.weight", "lm_head.weight"}


def test_without_head_only_the_layers_train() -> None:
    assert all(".layers.2." in n for n in trained(last_layers=1, head=False))


def test_no_layers_means_the_head_alone() -> None:
    assert trained(last_layers=0) == {"model.norm.weight", "lm_head.weight"}


def test_a_tied_head_stays_frozen_unless_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(last_layers=0, tied=True) == {"model.norm.weight"}
    assert "nothing but the last norm trains" in capsys.readouterr().err
    assert trained(last_layers=0, tied=True, modules=("lm_head",)) == {"model.norm.weight", "model.embed_tokens.weight"}


def test_named_modules_match_whole_words() -> None:
    assert trained(last_layers=0, head=False, layers=11, modules=("layers.1.mlp",)) == {
        f"model.layers.1.mlp.{n}_proj.weight" for n in ("gate", "up", "down")
    }


def test_a_misspelt_module_is_an_error_that_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="embed_token'") as error:
        trained(modules=("embed_token",))
    assert "did you mean 'embed_tokens'?" in (error.value.hint or "")


def test_more_layers_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a model that has 3"):
        trained(last_layers=4)


def test_nothing_to_train_is_an_error_with_advice() -> None:
    with pytest.raises(ConfigError, match="nothing would train") as error:
        trained(last_layers=0, head=False)
    assert "last_layers=2" in (error.value.hint or "")


def test_the_router_stays_frozen() -> None:
    assert not any(n.endswith(".mlp.gate.weight") for n in trained("deepseek_v3", last_layers=3))


def test_a_later_stage_frees_what_an_earlier_one_froze() -> None:
    model = tiny_model("llama", vocab_size=50, layers=3)
    METHODS["freeze"](model, TrainConfig(method="freeze", freeze=FreezeConfig(last_layers=0)))
    METHODS["freeze"](model, TrainConfig(method="freeze", freeze=FreezeConfig(last_layers=3)))
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.embed_tokens.weight"]
