from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_model
from tuneloop.config import build
from tuneloop.errors import ConfigError
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig
from tuneloop.train.config import StageConfig
from tuneloop.train.objectives import create
from tuneloop.train.phases import Trained, train_phases
from tuneloop.train.plan import BatchPlan, draw
from tuneloop.train.sections import LoraConfig
from tuneloop.types import Example

ROWS = [Example(str(i), (5 + i, 6, 7, 8 + i), (False, False, True, True)) for i in range(8)]


def plan_of(number: int, config: TrainConfig) -> BatchPlan:
    return draw([4] * len(ROWS), batch_size=4, epochs=config.epochs, max_steps=config.max_steps, seed=number)


def train(out: Path, *stages: StageConfig) -> Trained:
    torch.manual_seed(0)
    config = TrainConfig(method="staged", stages=stages, epochs=1, learning_rate=1e-2, trackers=())
    out.mkdir(exist_ok=True)
    model = tiny_model("llama", vocab_size=50)
    return train_phases(model, config, ROWS, [], plan_of, create, RunDir(out))


def test_steps_of_later_stages_count_on(tmp_path: Path) -> None:
    done = train(tmp_path / "out", StageConfig(method="lora"), StageConfig(method="full", epochs=2))
    steps = [line["step"] for line in RunDir(tmp_path / "out").metrics()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert done.fitted.steps == 6
    assert done.fitted.tokens == 3 * 8 * 4


def test_adapters_followed_by_full_become_weights(tmp_path: Path) -> None:
    done = train(tmp_path / "out", StageConfig(method="lora"), StageConfig(method="full"))
    assert not done.adapter
    assert not [n for n, _ in done.model.named_parameters() if "lora" in n]


def test_the_same_adapters_at_another_rate_stay_adapters(tmp_path: Path) -> None:
    done = train(tmp_path / "out", StageConfig(method="lora"), StageConfig(method="lora", learning_rate=1e-3))
    assert done.adapter


def test_other_adapters_are_merged_and_begun_anew(tmp_path: Path) -> None:
    wide = StageConfig(method="lora", lora=LoraConfig(rank=2))
    done = train(tmp_path / "out", StageConfig(method="lora"), wide)
    assert not done.adapter
    assert not [n for n, _ in done.model.named_parameters() if "lora" in n]


def test_a_finished_stage_is_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = (StageConfig(method="lora", name="first"), StageConfig(method="full"))
    first = train(tmp_path / "out", *stages)
    before = list(RunDir(tmp_path / "out").metrics())
    second = train(tmp_path / "out", *stages)
    assert "first: already done" in capsys.readouterr().err
    assert list(RunDir(tmp_path / "out").metrics()) == before
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_stage_that_is_lost_takes_those_after_it_along_and_no_metric_is_missing(tmp_path: Path) -> None:
    """As a kill in the middle of the removal of checkpoints would leave it: the last stage there, an earlier one gone."""
    stages = (StageConfig(method="lora"), StageConfig(method="full"), StageConfig(method="full", learning_rate=1e-3))
    first = train(tmp_path / "out", *stages)
    before = [(line["step"], line["loss"]) for line in RunDir(tmp_path / "out").metrics()]
    shutil.rmtree(tmp_path / "out/checkpoints/stage-2")
    second = train(tmp_path / "out", *stages)
    assert [(line["step"], line["loss"]) for line in RunDir(tmp_path / "out").metrics()] == before
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_a_stage_says_wins_over_the_run() -> None:
    loaded = build(
        TrainConfig,
        json.loads(
            '{"method": "staged", "epochs": 3, "learning_rate": 1e-3, "stages":'
            ' [{"method": "freeze", "lr": 1e-2, "patience": 2, "freeze": {"last_layers": 0}}, {"method": "full", "epochs": 1}]}'
        ),
    ).value
    head, whole = loaded.phases()
    assert (head.method, head.learning_rate, head.epochs, head.validation.patience) == ("freeze", 1e-2, 3, 2)
    assert head.freeze.last_layers == 0
    assert (whole.method, whole.learning_rate, whole.epochs, whole.validation.patience) == ("full", 1e-3, 1, None)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"method": "staged"}, "staged and stages belong together"),
        ({"stages": [{"method": "full"}]}, "staged and stages belong together"),
        ({"method": "staged", "stages": [{"method": "prefix"}, {"method": "full"}]}, "cannot be merged"),
        ({"method": "staged", "stages": [{"method": "staged"}]}, "cannot be staged itself"),
        ({"objective": "distil"}, "section distil belong together"),
    ],
)
def test_what_does_not_belong_together_is_refused(tree: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(TrainConfig, tree)
