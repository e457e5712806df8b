"""The training configuration: which settings count, which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.train.runs import fit, settings, weights
from tuneloop.config import build
from tuneloop.errors import ConfigError
from tuneloop.train import TrainConfig

BOOKKEEPING: list[dict[str, Any]] = [
    {"checkpoint": {"every_steps": 1, "every_minutes": 1e-6, "keep": 1}},
    {"trackers": ()},
    {"validation": {"samples": 3}},
    {"memory": {"over_budget": "warn"}},
    {"parallel": {"timeout_s": 60}},
]


@pytest.mark.parametrize("more", BOOKKEEPING)
def test_bookkeeping_is_no_reason_to_train_again(more: dict[str, Any]) -> None:
    assert TrainConfig(**more).hash() == TrainConfig().hash()
    assert TrainConfig().changes(TrainConfig(**more).model_dump(mode="json")) == []


def test_what_moves_weights_is_a_reason() -> None:
    before = TrainConfig(validation={"samples": 3}, source_weights={"a": 2}).model_dump(mode="json")
    after = TrainConfig(epochs=4, memory={"padding_free": False})
    assert after.changes(before) == [
        "epochs 3.0 -> 4.0",
        "memory.padding_free True -> False",
        "source_weights.a 2.0 -> None",
    ]


def test_how_often_a_run_is_saved_leaves_the_weights_alone(tmp_path: Path) -> None:
    lora = {"rank": 4, "dropout": 0.1}
    seldom, _ = fit(settings(lora=lora), tmp_path / "seldom")
    often, _ = fit(settings(lora=lora, **BOOKKEEPING[0]), tmp_path / "often")
    for name, weight in weights(seldom).items():
        assert torch.equal(weight, weights(often)[name])


@pytest.mark.parametrize(
    "given", ["learning_rate=.inf", "epochs=.inf", "source_weights.faq=.inf", "lora.alpha=.nan", "lora.alpha=1e999"]
)
def test_a_number_that_is_not_finite_is_refused_under_its_key(given: str) -> None:
    key = given.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"override {given}: {key}: Input should be a finite number"):
        build(TrainConfig, {}, [given])


def test_a_metric_that_no_run_writes_is_refused_with_those_that_are_written() -> None:
    with pytest.raises(ConfigError, match=r"validation.metric: .*'validation_loss', 'loss', .*, got 'accuracy'"):
        build(TrainConfig, {}, ["validation.metric=accuracy"])


@pytest.mark.parametrize("none", ["[]", '""'])
def test_adapters_on_no_layer_are_refused(none: str) -> None:
    with pytest.raises(ConfigError, match=r"lora.targets: names no layer\nhint: all-linear"):
        build(TrainConfig, {}, [f"lora.targets={none}"])
