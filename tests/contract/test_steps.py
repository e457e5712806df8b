"""Every registered step keeps the contract of the seam."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import polars as pl
import pytest

from tuneloop.data import DataConfig, registry
from tuneloop.data import steps as seam
from tuneloop.data.frame import SCHEMA, drop, empty_frame, make_frame
from tuneloop.data.phases import apply
from tuneloop.data.steps import BUILT_IN, Step, StepBase, WholeStep, create, names
from tuneloop.errors import ConfigError

TEXTS = [
    "lost my card",
    "Lost my card!",
    "<p>cafÃ©&nbsp;closed</p>  ",
    "",
    "...",
    "ring 07700 900123 or mail a@b.example",
    "身份证11010519491231002X",
    "I have been waiting for my new debit card for two weeks and it has still not arrived",
    "I have been waiting for my new debit card for two weeks and it has still not arrived!! please",
    "a < b",
]


def frame() -> pl.DataFrame:
    """Rows of every kind: classes, pairs, reasoning, system prompts, plain text, pinned rows, no turns at all."""
    conversations: list[list[dict[str, Any]]] = []
    labels: list[str | None] = []
    for k, text in enumerate(TEXTS):
        user, answer = {"role": "user", "content": text}, {"role": "assistant", "content": f"{text} yes {k % 2}"}
        conversations += [
            [user],
            [{"role": "system", "content": "  S "}, user, answer],
            [user, answer, user],
            [{**answer, "reasoning": text}],
            [],
        ]
        labels += ["xy"[k % 2], None, None, None, "x"]
    n = len(conversations)
    pinned = [("test", None, "validation", None, None, "train")[i % 6] for i in range(n)]
    return make_frame(
        {
            "id": [f"r{i:03}" for i in range(n)],
            "messages": conversations,
            "label": labels,
            "pinned": pinned,
            "source": [0] * n,
        }
    )


@pytest.fixture(params=sorted(BUILT_IN))
def step(request: pytest.FixtureRequest) -> Step:
    return create(request.param, {})


def test_every_registered_step_is_tested_here() -> None:
    assert set(names()) >= set(BUILT_IN)


def test_it_is_a_step(step: Step) -> None:
    assert isinstance(step, Step)
    assert BUILT_IN[step.name]


def test_rows_order_and_columns_stay(step: Step) -> None:
    before = frame()
    after = step.apply(before)
    assert dict(after.schema) == dict(SCHEMA)
    for column in ("id", "raw", "origin", "line", "source", "pinned"):
        assert after[column].equals(before[column], null_equal=True), column


def test_a_drop_has_step_and_reason_with_a_category(step: Step) -> None:
    after = step.apply(frame())
    assert after["dropped_step"].is_null().equals(after["dropped_reason"].is_null())
    gone = after.filter(pl.col("dropped_step").is_not_null())
    assert set(gone["dropped_step"]) <= {step.name}
    assert gone["dropped_reason"].str.contains(r"^[a-z][a-z -]*: .").all()


def test_a_change_of_text_is_in_the_history(step: Step) -> None:
    before = frame()
    after = step.apply(before)
    for old, new, history in zip(before["messages"], after["messages"], after["history"], strict=True):
        changes = [change for change in history.to_list() if change["message"] is not None]
        if old.to_list() != new.to_list():
            assert {change["step"] for change in changes} == {step.name}
        else:
            assert not changes


def test_a_change_of_class_is_in_the_history(step: Step) -> None:
    before = frame()
    after = step.apply(before)
    for old, new, history in zip(before["label"], after["label"], after["history"], strict=True):
        changes = [change for change in history.to_list() if change["message"] is None]
        one = [{"step": step.name, "message": None, "before": old, "after": new}]
        assert changes == (one if old != new else [])


def test_applied_again_to_what_is_left_it_changes_nothing(step: Step) -> None:
    left = step.apply(frame()).filter(pl.col("dropped_step").is_null())
    assert step.apply(left).equals(left, null_equal=True)


def test_it_is_deterministic(step: Step) -> None:
    assert step.apply(frame()).equals(step.apply(frame()), null_equal=True)


def test_it_takes_an_empty_frame(step: Step) -> None:
    after = step.apply(empty_frame())
    assert after.height == 0
    assert dict(after.schema) == dict(SCHEMA)


@pytest.mark.parametrize("name", sorted(name for name in BUILT_IN if not isinstance(create(name, {}), WholeStep)))
def test_row_wise_steps_do_not_depend_on_how_rows_are_cut_into_frames(name: str) -> None:
    step, whole = create(name, {}), frame()
    parts = pl.concat([step.apply(whole[:7]), step.apply(whole[7:8]), step.apply(whole[8:])])
    assert parts.equals(step.apply(whole), null_equal=True)


def test_unknown_step_and_unknown_option_are_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="unknown step"):
        create("near_duplicate_s", {})
    with pytest.raises(ConfigError, match="option 'x'"):
        create("empty", {"x": 1})


class Shouting(StepBase):
    """A third party's step: drops rows without a lower-case letter."""

    name: ClassVar[str] = "shouting"

    letters: int = 1

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        quiet = frame["messages"].list.first().struct.field("content").str.count_matches("[a-z]") >= self.letters
        return drop(frame, self.name, pl.select(pl.when(~quiet).then(pl.lit("shouting: no lower case"))).to_series())


class Thief(StepBase):
    """A step with a bug: it removes a row."""

    name: ClassVar[str] = "thief"

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame[1:]


def test_a_step_of_an_installed_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("shouting", f"{__name__}:Shouting", seam.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Shouting)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == seam.GROUP else [])

    config = DataConfig(sources="a.csv", steps=({"name": "shouting", "options": {"letters": 2}},))
    (step,) = seam.build(config.steps)

    assert isinstance(step, Shouting)
    assert "shouting" in names()
    rows = make_frame({"id": ["a", "b"], "messages": [[{"role": "user", "content": t}] for t in ("HELP", "help")]})
    cleaned, _, _ = apply(rows, [step])
    assert cleaned["dropped_reason"].to_list() == ["shouting: no lower case", None]


def test_a_step_that_loses_a_row_is_caught() -> None:
    with pytest.raises(RuntimeError, match="thief"):
        apply(frame(), [Thief()])
