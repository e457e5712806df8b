from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import Killed, assert_same_bits, fit_tiny, losses_of, some_plan, some_rows
from tests.tiny import ARCHS, tiny_model
from tuneloop.errors import ConfigError
from tuneloop.train import TrainConfig
from tuneloop.train.methods import METHODS
from tuneloop.train.methods.select import Selection
from tuneloop.train.objectives import create
from tuneloop.train.optimise import build_optimizer, trained_parameters
from tuneloop.train.sections import CheckpointConfig, MemoryConfig, SelectConfig

ROWS, PLAN = some_rows(12), some_plan(12, steps=8)


def config(**more: Any) -> TrainConfig:
    return TrainConfig(
        method="select", learning_rate=3e-3, trackers=(), batch_size=4, checkpoint=CheckpointConfig(every_steps=1),
        select=SelectConfig(**({"layers": 2, "every_steps": 3, "sample_rows": 6} | more)),
    )  # fmt: skip


def prepared() -> Any:
    return METHODS["select"](tiny_model("llama", vocab_size=300, layers=5), config())


def selection(model: Any) -> Selection:
    return Selection(model, create(model, config()), ROWS, config())


def test_scores_are_gradient_norm_over_weight_norm_of_each_layer() -> None:
    model = prepared()
    scores = selection(model)._scores(0)
    import random

    sample = [ROWS[i] for i in random.Random("select/0").sample(range(12), 6)]
    expected = torch.zeros(5)
    for rows in (sample[:4], sample[4:]):
        model.zero_grad()
        (create(model, config())(model, rows) / sum(e.weight * e.label_tokens for e in rows)).backward()
        for i, layer in enumerate(model.model.layers):
            gradient = torch.cat([p.grad.flatten() for p in layer.parameters()])
            weight = torch.cat([p.detach().flatten() for p in layer.parameters()])
            expected[i] += gradient.norm() / weight.norm() / 2
    assert scores == pytest.approx(expected.tolist(), rel=1e-4)


def test_measuring_leaves_no_gradient_and_draws_no_random_number() -> None:
    model = prepared()
    chooser, before = selection(model), torch.get_rng_state()
    chooser.before_step(0)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_only_the_chosen_layers_train_and_they_have_the_highest_scores() -> None:
    model = prepared()
    chooser = selection(model)
    chooser.before_step(0)
    scores = selection(prepared())._scores(0)
    assert [p.requires_grad for p in model.parameters() if p.requires_grad] == [True] * 18  # 9 tensors a layer
    assert chooser.chosen == sorted(sorted(range(5), key=lambda i: -scores[i])[:2])


def test_moments_of_dropped_layers_are_freed() -> None:
    model = prepared()
    chooser = selection(model)
    optimizer = build_optimizer(trained_parameters(model), config())
    chooser.attach(optimizer)
    for chosen in ([0, 1], [1, 2]):
        chooser._train(chosen)
        create(model, config())(model, ROWS[:4]).backward()
        optimizer.step()
        optimizer.zero_grad()
    held = {id(p) for p in optimizer.state}
    assert held == {id(p) for i in (1, 2) for p in model.model.layers[i].parameters()}
    assert chooser.optimizer_bytes() == pytest.approx(8 * chooser._weights([1, 2]), rel=0.01)


def test_only_layers_ever_change(tmp_path: Path) -> None:
    start, end = prepared().state_dict(), fit_tiny(prepared(), config(), ROWS, PLAN, tmp_path)
    changed = {n for n in end if not torch.equal(end[n], start[n])}
    assert changed
    assert all(".layers." in n for n in changed)


@pytest.mark.parametrize("step", [3, 4])  # the checkpoint before it is the one right before, right after a choice
def test_interrupted_around_a_choice_is_bit_identical(tmp_path: Path, step: int) -> None:
    whole = fit_tiny(prepared(), config(), ROWS, PLAN, tmp_path / "whole")
    calls = step + 2 * (1 + (step >= 3))  # each choice measures two passes
    with pytest.raises(Killed):
        fit_tiny(prepared(), config(), ROWS, PLAN, tmp_path / "killed", die_at_call=calls)
    assert len(list((tmp_path / "killed/checkpoints").glob("step-*"))) == 2
    assert_same_bits(fit_tiny(prepared(), config(), ROWS, PLAN, tmp_path / "killed"), whole)


def test_a_choice_that_is_interrupted_is_made_again(tmp_path: Path) -> None:
    whole = fit_tiny(prepared(), config(), ROWS, PLAN, tmp_path / "whole")
    with pytest.raises(Killed):  # 3 steps, two passes at step 0, one of the two at step 3
        fit_tiny(prepared(), config(), ROWS, PLAN, tmp_path / "killed", die_at_call=6)
    assert_same_bits(fit_tiny(prepared(), config(), ROWS, PLAN, tmp_path / "killed"), whole)


def test_choosing_every_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to choose"):
        METHODS["select"](tiny_model("llama", vocab_size=50, layers=2), config())


def test_the_report_says_share_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_tiny(prepared(), config(), ROWS, some_plan(12, steps=4), tmp_path)
    said = capsys.readouterr().err
    assert said.count("the others score at most") == 2
    assert "of the weights trained at a time; the optimizer holds" in said


@pytest.mark.parametrize("arch", ARCHS)
def test_a_run_equals_the_plain_padded_one(arch: Any, tmp_path: Path) -> None:
    for name, fast in (("fast", True), ("plain", False)):
        model = METHODS["select"](tiny_model(arch, vocab_size=300, layers=4), config())
        settings = config().model_copy(update={"learning_rate": 1e-3, "memory": MemoryConfig(padding_free=fast)})
        fit_tiny(model, settings, ROWS, PLAN, tmp_path / name)
    assert losses_of(tmp_path / "fast") == pytest.approx(losses_of(tmp_path / "plain"), abs=1e-5)


def test_at_the_end_every_candidate_counts_as_trained(tmp_path: Path) -> None:
    model = prepared()
    fit_tiny(model, config(), ROWS, some_plan(12, steps=2), tmp_path)
    assert {n.split(".")[2] for n in trained_parameters(model)} == {"0", "1", "2", "3", "4"}
