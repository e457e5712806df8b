"""The Scorer seam: every metric of answers that is registered behaves like this."""

from __future__ import annotations

import math

import pytest

from tuneloop.evaluate import names
from tuneloop.evaluate.answers import labels_of
from tuneloop.evaluate.registry import MEASURED, Task, find
from tuneloop.evaluate.scorers import mean
from tuneloop.types import Interval, Message, Record

ANSWERS = ("the card was lost in the old town", "please wait for two more days", "请携带身份证到柜台办理挂失业务")
ODD = ("", " ", "\n\n", "\x00", "�", "🙂" * 50, "a" * 5000, "<think>", "…。!?", "card " * 400)
SCORERS = [name for name in names() if name not in MEASURED]


@pytest.fixture
def task() -> Task:
    records = [Record(f"r{i}", (Message("user", "q"), Message("assistant", a)), a) for i, a in enumerate(ANSWERS * 4)]
    labels, why = labels_of(records)
    return Task(records, labels, why, resamples=100, seed=0)


def total(name: str, task: Task, answers: list[str]) -> Interval:
    metric = find(name)
    if metric.total is not None:
        return metric.total(task, answers)
    assert metric.score is not None
    scorer = metric.score(task)
    return mean([scorer(r, a) for r, a in zip(task.records, answers, strict=True)], task)


@pytest.mark.parametrize("name", SCORERS)
def test_it_fits_or_says_why_not(name: str, task: Task) -> None:
    assert find(name).unfit(task) is None
    unlabelled = Task([Record("r", (Message("user", "q"), Message("assistant", "x")))], None, "no labels", 100, 0)
    assert find(name).unfit(unlabelled) is None or str(find(name).unfit(unlabelled))


@pytest.mark.parametrize("name", SCORERS)
def test_the_reference_scores_higher_than_anything_else(name: str, task: Task) -> None:
    right = total(name, task, [r.answer for r in task.records])
    wrong = total(name, task, ["something else entirely"] * len(task.records))
    assert right.value > wrong.value
    assert right.value == pytest.approx(right.high)


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_answers_get_a_number(name: str, odd: str, task: Task) -> None:
    interval = total(name, task, [odd] * len(task.records))
    assert math.isfinite(interval.value)
    assert interval.low <= interval.value <= interval.high
    assert interval.n == len(task.records)


@pytest.mark.parametrize("name", SCORERS)
def test_the_same_answers_give_the_same_numbers(name: str, task: Task) -> None:
    answers = [task.records[0].answer] * len(task.records)
    assert total(name, task, answers) == total(name, task, answers)
