from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.train.runs import fit, rows, settings
from tuneloop.rundir import RunDir
from tuneloop.train.sections import OptimizerConfig
from tuneloop.train.watch import (
    ADVICE,
    Watch,
    check_rows,
    explodes,
    length_that_keeps,
    overfits,
    rate_is_high,
    spikes,
    vanishes,
    warn,
    warnings_of,
)


def kinds(out: RunDir) -> list[str]:
    return [line["warning"] for line in warnings_of(out)]


@pytest.mark.parametrize(
    ("validations", "found"),
    [
        ([(1.0, 0.9), (1.1, 0.7), (1.2, 0.5)], True),
        ([(9.0, 2.0), (1.0, 0.9), (1.1, 0.7), (1.2, 0.5)], True),
        ([(1.0, 0.9), (1.1, 0.7)], False),  # two validations are no trend
        ([(1.0, 0.9), (1.2, 0.7), (1.1, 0.5)], False),  # it fell again
        ([(1.0, 0.9), (1.1, 0.95), (1.2, 0.5)], False),  # the training loss rose too: another trouble
        ([(1.0, 0.9), (1.003, 0.7), (1.006, 0.5)], False),  # below 1 % in all
    ],
)
def test_overfitting_is_two_rises_of_validation_while_training_falls(
    validations: list[tuple[float, float]], found: bool
) -> None:
    assert overfits(validations) is found


def test_a_rate_that_is_too_high_shows_within_twenty_steps_of_the_warm_up() -> None:
    rising = [2.0] * 5 + [3.0] * 5
    assert rate_is_high(rising, warmup=0)
    assert not rate_is_high([2.0] * 5 + [2.4] * 5, warmup=0)
    assert not rate_is_high([2.0] * 90 + [3.0] * 10, warmup=0)
    assert rate_is_high([2.0] * 90 + [3.0] * 10, warmup=85)


def test_a_spike_stands_out_of_the_spread_before_it() -> None:
    noisy = [1.0, 1.2] * 10  # median 1.1, MAD 0.1: six robust deviations are 0.89
    assert spikes([*noisy, 2.1])
    assert not spikes([*noisy, 1.9])
    assert not spikes([1.0] * 19 + [9.0])  # too little before it
    assert not spikes([1.0] * 20 + [1.4])  # no spread at all: half as much again is asked for


def test_a_gradient_explodes_at_ten_times_the_median_before() -> None:
    assert explodes([1.0] * 10 + [10.1])
    assert not explodes([1.0] * 10 + [9.9])
    assert not explodes([1.0] * 9 + [99.0])


def test_a_gradient_vanishes_when_nothing_is_left_of_it_and_there_is_still_something_to_learn() -> None:
    gone = [1.0] * 10 + [5e-5] * 10
    assert vanishes(gone, [2.0])
    assert not vanishes(gone, [0.01])
    assert not vanishes([1.0] * 10 + [2e-4] * 10, [2.0])


def line(step: int, loss: float = 1.0, norm: float = 1.0) -> dict[str, float]:
    return {"step": step, "loss": loss, "grad_norm": norm}


def test_a_warning_is_given_once_also_by_a_resumed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, optimizer = RunDir(tmp_path), OptimizerConfig()
    watch = Watch(out, 0, optimizer, 100)
    for step in range(1, 15):
        values = line(step, norm=1.0 if step < 12 else 100.0)
        out.log_metrics(**values)
        watch.see(step, values)
    resumed = Watch(out, 0, optimizer, 100)
    resumed.see(15, line(15, norm=1e6))
    assert kinds(out) == ["gradient_explodes"]
    said = capsys.readouterr().err
    assert said.count("warning: step 12: gradient norm 100, median before 1") == 1
    assert ADVICE["gradient_explodes"] in said


def test_a_resumed_run_knows_what_came_before(tmp_path: Path) -> None:
    out = RunDir(tmp_path)
    for step in range(1, 11):
        out.log_metrics(**line(step))
    Watch(out, 0, OptimizerConfig(), 100).see(11, line(11, norm=50.0))
    assert kinds(out) == ["gradient_explodes"]


def test_a_stage_does_not_take_the_losses_of_the_one_before_for_its_own(tmp_path: Path) -> None:
    out = RunDir(tmp_path)
    for step in range(1, 11):
        out.log_metrics(**line(step))
    Watch(out, 10, OptimizerConfig(), 100).see(11, line(11, norm=50.0))
    assert kinds(out) == []


def test_a_run_on_few_rows_for_long_overfits_and_says_so(tmp_path: Path) -> None:
    config = settings(method="full", learning_rate=3e-3, epochs=12)
    fit(config, tmp_path, count=8, held_out=rows(8, seed=9))
    (found,) = [w for w in warnings_of(RunDir(tmp_path)) if w["warning"] == "overfitting"]
    assert "while the training loss fell" in found["what"]


def test_a_rate_far_too_high_is_said_early(tmp_path: Path) -> None:
    fit(settings(method="full", learning_rate=1.0, epochs=6, optimizer={"schedule": "constant"}), tmp_path)
    found = {w["warning"]: w["step"] for w in warnings_of(RunDir(tmp_path))}
    assert found["learning_rate_high"] <= 21


def test_a_healthy_run_has_no_warning(tmp_path: Path) -> None:
    fit(settings(), tmp_path, held_out=rows(16))
    assert kinds(RunDir(tmp_path)) == []


def test_the_length_that_keeps_995_of_1000_rows() -> None:
    assert length_that_keeps(range(1, 1001)) == 995
    assert length_that_keeps([7]) == 7


def test_rows_left_out_are_a_warning_above_one_percent(tmp_path: Path) -> None:
    lengths = [10] * 1960 + list(range(101, 141))
    check_rows(RunDir(tmp_path), 2000, lengths, 100, {"longer than 100 tokens": 40})
    (found,) = warnings_of(RunDir(tmp_path))
    assert found["what"] == "40 of 2,000 training rows (2.0 %) are left out"
    assert "train.max_length_tokens=130 keeps 99.5 %" in found["advice"]  # 1,990 rows are 130 tokens or shorter


def test_rows_are_counted_as_rows_where_each_is_several_examples(tmp_path: Path) -> None:
    check_rows(RunDir(tmp_path), 70, [10] * 90, 100, {"its weight is 0": 40})
    assert warnings_of(RunDir(tmp_path))[0]["what"] == "40 of 70 training rows (57.1 %) are left out"


def test_one_row_in_a_hundred_may_be_left_out(tmp_path: Path) -> None:
    check_rows(RunDir(tmp_path), 100, [10] * 99 + [101], 100, {"longer than 100 tokens": 1})
    assert kinds(RunDir(tmp_path)) == []


def test_every_warning_has_advice(tmp_path: Path) -> None:
    for kind in ADVICE:
        warn(RunDir(tmp_path), 1, kind, "something")
    assert [w["advice"] for w in warnings_of(RunDir(tmp_path))] == list(ADVICE.values())
