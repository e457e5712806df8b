from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.data.steps.rows import classes, reasons
from tuneloop.data.steps import create
from tuneloop.data.steps.labels import entity_values

TEXT = "Book a table for two at Noma on Friday"


def annotated(fields: dict[str, Any], text: str = TEXT) -> Any:
    return classes([text], ["book"], fields=[json.dumps(fields, ensure_ascii=False)])


def test_an_unknown_label_is_dropped_and_the_likely_one_is_named() -> None:
    found = reasons("labels", classes(["a", "b", "c"], ["card_lost", "card_lots", None]), labels=["card_lost", "other"])
    assert found == [None, "unknown label: 'card_lots' is not listed; is it 'card_lost'?", None]


def test_a_rare_label_is_dropped() -> None:
    found = reasons("labels", classes(["a", "b", "c"], ["x", "x", "y"]), min_rows=2)
    assert found == [None, None, "rare label: 'y' has 1 of the 2 rows it needs"]


def test_an_unknown_action_is_dropped() -> None:
    found = reasons("labels", annotated({"action": "fly"}), actions=["open_ticket", "call_back"])
    assert found == ["unknown action: 'fly' is not listed"]


def test_an_unknown_entity_is_dropped() -> None:
    found = reasons("labels", annotated({"entities": {"people": "two"}}), entities=["place"])
    assert found == ["unknown entity: 'people' is not listed"]


@pytest.mark.parametrize(
    "entities",
    [
        {"place": "Noma", "people": "two"},
        [{"type": "place", "value": "noma"}],
        [{"entity": "day", "value": "Ｆｒｉｄａｙ", "start": 32, "end": 38}],
        {"place": ["Noma", "table for two"]},
        {"place": "", "day": None, "confirmed": True},
        [],
        None,
    ],
)
def test_values_that_stand_in_the_text_are_right(entities: Any) -> None:
    assert reasons("labels", annotated({"entities": entities})) == [None]


@pytest.mark.parametrize(
    "entities",
    [{"place": "Nomad"}, [{"type": "place", "value": "Nomad"}], {"other": ["two"], "place": ["Noma", "Nomad"]}],
)
def test_a_value_that_does_not_stand_in_the_text_is_named(entities: Any) -> None:
    assert reasons("labels", annotated({"entities": entities})) == ["entity not in text: place 'Nomad'"]


def test_values_in_chinese_text() -> None:
    fields = {"entities": {"科室": "心内科", "时间": "明天 上午"}}
    assert reasons("labels", annotated(fields, "我想挂明天上午的心内科")) == [None]


def test_values_need_not_stand_in_the_text_where_that_is_said() -> None:
    assert reasons("labels", annotated({"entities": {"place": "Nomad"}}), check_values=False) == [None]


def test_classes_that_differ_in_writing_only_are_named() -> None:
    step = create("labels", {})
    step.apply(classes(["a", "b", "c"], ["Card_lost", "card lost", "other"]))
    assert step.notes == (
        "these classes look like one class, written differently: 'Card_lost' (1 rows), 'card lost' (1 rows)",
    )


def test_classes_that_differ_in_a_sign_are_different() -> None:
    step = create("labels", {})
    step.apply(classes(["a", "b", "c", "d", "e"], ["C", "C++", "C#", "+", "-"]))
    assert step.notes == ()


@pytest.mark.parametrize(
    ("entities", "values"),
    [
        ({"a": 1, "b": "x"}, [("a", "1"), ("b", "x")]),
        ([{"slot": "a", "text": "x"}, {"name": "b", "value": 2.5}], [("a", "x"), ("b", "2.5")]),
        ({"type": "a", "value": ["x", "y"]}, [("a", "x"), ("a", "y")]),
        (["x"], [("value", "x")]),
        ([{"type": "a", "start": 0, "end": 3}], []),
        ({"restaurant": {"name": "Noma"}}, [("name", "Noma")]),
    ],
)
def test_entities_in_the_shapes_of_annotation_tools(entities: Any, values: list[tuple[str, str]]) -> None:
    assert list(entity_values(entities)) == values
