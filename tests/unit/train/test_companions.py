"""The moving average and patience, alone and in a run: what is validated, kept, resumed and saved."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from tests.unit.train.runs import fit, loop_of, rows, settings, weights
from tuneloop.errors import Interrupted, ModelError
from tuneloop.rundir import RunDir
from tuneloop.train.companions import Average, Patience
from tuneloop.train.config import TrainConfig
from tuneloop.train.loop import Loop, evaluate_loss
from tuneloop.train.sections import ValidationConfig


def validations(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["validation_loss"]) for line in RunDir(out).metrics() if "validation_loss" in line]


def stop_after(loop: Loop, last: int) -> None:
    """Run up to a checkpoint after step ``last`` (from 0) and stop there."""
    after = loop._after

    def stop(step: int) -> None:
        after(step)
        if step == last:
            raise Interrupted("stopped")

    loop._after = stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        loop.run()


def test_the_average_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([0.0]))
    average = Average({"w": weight}, 0.5)
    for step, value in enumerate((10.0, 20.0, 30.0)):
        with torch.no_grad():
            weight.fill_(value)
        average.after_step(step)
    # decays (1 + s) / (10 + s): 0.1, 2/11, 3/12, all below 0.5
    # 0.9 * 10 = 9; 2/11 * 9 + 9/11 * 20 = 18; 0.25 * 18 + 0.75 * 30 = 27
    assert average.average["w"].item() == pytest.approx(27.0)


def test_the_decay_grows_up_to_its_value() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = Average({"w": weight}, 0.5)
    average.average["w"].zero_()
    average.after_step(1000)
    assert average.average["w"].item() == pytest.approx(0.5)


def test_the_average_is_in_place_only_for_a_while() -> None:
    weight = nn.Parameter(torch.tensor([4.0]))
    average = Average({"w": weight}, 0.9)
    average.average["w"].fill_(1.0)
    with average.in_place():
        assert weight.item() == 1.0
    assert (weight.item(), average.average["w"].item()) == (4.0, 1.0)


def averaged(**more: object) -> TrainConfig:
    return settings(optimizer={"ema_decay": 0.8}, **more)


def test_a_run_ends_with_the_average_of_its_own_weights(tmp_path: Path) -> None:
    """Oracle: the same run without an average, averaged by hand step by step."""
    plain = loop_of(settings(), tmp_path / "plain")
    mine = {name: p.detach().clone().double() for name, p in plain.parameters.items()}
    step = plain._step

    def follow(number: int) -> None:
        step(number)
        decay = min(0.8, (1 + number) / (10 + number))
        for name, p in plain.parameters.items():
            mine[name] = decay * mine[name] + (1 - decay) * p.detach().double()

    plain._step = follow  # type: ignore[method-assign]
    plain.run()
    loop, _ = fit(averaged(), tmp_path / "averaged")
    for name, value in weights(loop).items():
        torch.testing.assert_close(value.double(), mine[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(value, plain.parameters[name]) for name, value in weights(loop).items())


def test_validation_sees_the_average(tmp_path: Path) -> None:
    held_out = rows(8, seed=5)
    loop, fitted = fit(averaged(), tmp_path, held_out=held_out)
    again = evaluate_loss(loop.model, loop.objective, held_out, 16)  # the loop ends with the average in the model
    assert fitted.validation_loss == pytest.approx(again, abs=1e-6)


def test_a_resumed_average_is_the_same(tmp_path: Path) -> None:
    whole, _ = fit(averaged(), tmp_path / "whole")
    stop_after(loop_of(averaged(checkpoint={"every_steps": 1}), tmp_path / "cut"), 4)
    resumed, _ = fit(averaged(), tmp_path / "cut")
    for name, value in weights(resumed).items():
        assert torch.equal(value, whole.parameters[name]), name


def test_patience_counts_validations_without_improvement() -> None:
    patience = Patience(ValidationConfig(patience=2))
    seen = [(patience.improved(v, i), patience.exhausted) for i, v in enumerate((3.0, 2.0, 2.5, 2.0))]
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert (patience.best, patience.best_step) == (2.0, 1)


def test_a_metric_may_rise() -> None:
    patience = Patience(ValidationConfig(patience=1, metric="mfu", higher_is_better=True))
    assert [patience.improved(v, 0) for v in (0.5, 0.6, 0.55)] == [True, True, False]


def test_a_loss_that_is_no_number_is_no_improvement() -> None:
    patience = Patience(ValidationConfig(patience=1))
    assert not patience.improved(float("nan"), 1)
    assert patience.exhausted


def overfitting(**more: object) -> TrainConfig:
    """Few rows, a high rate: validation soon gets worse."""
    given = {"epochs": 30, "learning_rate": 1e-2, "method": "full", "validation": {"patience": 2, "every_steps": 2}}
    return settings(**given | more)


def test_the_best_weights_are_what_a_run_ends_with(tmp_path: Path) -> None:
    held_out = rows(8, seed=5)
    loop, fitted = fit(overfitting(), tmp_path, count=8, held_out=held_out)
    best_step, best = min(validations(tmp_path), key=lambda line: line[1])
    assert fitted.steps < 60, "it stopped early"
    assert fitted.steps == best_step + 2 * 2
    assert (fitted.best_step, fitted.validation_loss) == (best_step, best)
    assert evaluate_loss(loop.model, loop.objective, held_out, 16) == pytest.approx(best, abs=1e-6)


def test_the_best_of_a_run_with_an_average_are_averaged_weights(tmp_path: Path) -> None:
    held_out = rows(8, seed=5)
    config = overfitting(optimizer={"ema_decay": 0.8})
    loop, fitted = fit(config, tmp_path, count=8, held_out=held_out)
    assert evaluate_loss(loop.model, loop.objective, held_out, 16) == pytest.approx(fitted.validation_loss, abs=1e-6)


def test_a_resumed_run_stops_where_the_whole_one_stopped(tmp_path: Path) -> None:
    held_out = rows(8, seed=5)
    whole, fitted = fit(overfitting(), tmp_path / "whole", count=8, held_out=held_out)
    cut = fitted.steps - 2  # one validation without improvement is behind
    interrupted = loop_of(overfitting(checkpoint={"every_steps": 1}), tmp_path / "cut", count=8, held_out=held_out)
    stop_after(interrupted, cut - 1)
    assert interrupted.patience.without_improvement == 1
    resumed, again = fit(overfitting(), tmp_path / "cut", count=8, held_out=held_out)
    assert (again.steps, again.best_step, again.validation_loss) == (
        fitted.steps, fitted.best_step, fitted.validation_loss
    )  # fmt: skip
    for name, value in weights(resumed).items():
        assert torch.equal(value, whole.parameters[name]), name


def test_any_metric_of_the_run_can_be_watched(tmp_path: Path) -> None:
    config = settings(validation={"metric": "grad_norm", "patience": 9, "every_steps": 3})
    loop, fitted = fit(config, tmp_path, held_out=rows(4, seed=5))
    norms = {line["step"]: line["grad_norm"] for line in RunDir(tmp_path).metrics() if "grad_norm" in line}
    assert loop.patience.best == min(norms[step] for step in (3, 6, 9, 12))
    losses = dict(validations(tmp_path))
    assert fitted.best_step is not None
    assert fitted.validation_loss == losses[fitted.best_step], "what was watched is no loss"


def test_every_metric_that_may_be_watched_is_written(tmp_path: Path) -> None:
    fit(settings(max_steps=1), tmp_path, held_out=rows(4, seed=5))
    written = {name for line in RunDir(tmp_path).metrics() for name in line} - {"step", "tokens"}
    assert written == set(get_args(ValidationConfig.model_fields["metric"].annotation))


def test_damaged_best_weights_are_not_passed_off_as_the_best(tmp_path: Path) -> None:
    loop = loop_of(overfitting(), tmp_path, count=8, held_out=rows(8, seed=5))
    finish = loop._finish

    def damage() -> object:
        (loop.folder / "best/weights.safetensors").write_bytes(b"")
        return finish()

    loop._finish = damage  # type: ignore[method-assign, assignment]
    with pytest.raises(ModelError, match="the best weights were kept and are damaged"):
        loop.run()


def test_a_checkpoint_is_written_when_the_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten minutes, with four minutes a step: after steps 3, 6, 9, and at the end."""
    clock = [0.0]
    monkeypatch.setattr("tuneloop.train.loop.time.monotonic", lambda: clock[0])
    loop = loop_of(settings(checkpoint={"every_steps": 1000, "every_minutes": 10, "keep": 99}), tmp_path)
    loop.clock.saved_at = 0.0
    step = loop._step

    def slow(number: int) -> None:
        step(number)
        clock[0] += 4 * 60

    loop._step = slow  # type: ignore[method-assign]
    loop.run()
    assert [p.name for p in sorted(loop.folder.glob("step-*"))] == [f"step-{n:08}" for n in (3, 6, 9, 12)]


def test_a_checkpoint_is_written_every_so_many_steps(tmp_path: Path) -> None:
    loop, _ = fit(settings(checkpoint={"every_steps": 5, "keep": 99}), tmp_path)
    assert [p.name for p in sorted(loop.folder.glob("step-*"))] == [f"step-{n:08}" for n in (5, 10, 12)]
