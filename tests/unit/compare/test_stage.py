from __future__ import annotations

from pathlib import Path

import pytest

from tuneloop.compare import CompareConfig, load, run
from tuneloop.errors import DataError
from tuneloop.rundir import RunDir
from tuneloop.types import Score

CONFIG = CompareConfig(resamples=200, min_n=1)


def scores(metric: str, values: str) -> list[Score]:
    return [Score(f"r{i}", metric, float(v)) for i, v in enumerate(values)]


@pytest.fixture
def out(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_what_is_written_is_what_is_read(out: RunDir) -> None:
    made = run(CONFIG, scores("accuracy", "0001"), scores("accuracy", "1110"), out, baseline="old", candidate="new")
    read = load(out)
    assert read.to_json() | {"won": list(made.won), "lost": list(made.lost)} == made.to_json()
    assert (read.wins, read.losses, read.baseline) == (3, 1, "old")
    assert (list(read.won), list(read.lost)) == (["r0", "r1", "r2"], ["r3"])


def test_accuracy_is_preferred_and_stands_alone(out: RunDir) -> None:
    a = scores("accuracy_lenient", "01") + scores("rouge_l", "01") + scores("accuracy", "01")
    assert list(run(CONFIG, a, a, out).metrics) == ["accuracy"]


def test_several_metrics_are_adjusted_and_the_first_decides(out: RunDir) -> None:
    config = CompareConfig(metrics=("rouge_l", "accuracy"), resamples=200, min_n=1)
    a, b = scores("accuracy", "0000000"), scores("accuracy", "1111111")
    result = run(config, a + scores("rouge_l", "0000000"), b + scores("rouge_l", "0000001"), out)
    assert result.verdict.metric == "rouge_l"
    assert result.p_holm["accuracy"] == pytest.approx(2 * 2 / 2**7)  # twice the exact p of 7 : 0


def test_an_unmeasured_metric_is_named(out: RunDir) -> None:
    with pytest.raises(DataError, match="not measured for both models: bleurt") as caught:
        run(CompareConfig(metrics=("bleurt",)), scores("accuracy", "1"), scores("accuracy", "1"), out)
    assert "accuracy" in str(caught.value.hint)


def test_nothing_in_common_is_an_error(out: RunDir) -> None:
    with pytest.raises(DataError, match="no metric in common"):
        run(CONFIG, scores("accuracy", "1"), scores("rouge_l", "1"), out)


def test_two_scores_for_one_item_are_an_error(out: RunDir) -> None:
    with pytest.raises(DataError, match="r0 has two scores"):
        run(CONFIG, scores("accuracy", "1") * 2, scores("accuracy", "1"), out)
