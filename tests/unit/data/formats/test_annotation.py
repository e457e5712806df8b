"""Annotated sentences: {text, intent, entities, action}."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rows import found, said, understood
from tuneloop.data.formats import Unusable

ENTITY = {"type": "city", "value": "北京", "start": 2}
ROW = {"text": "我在北京", "intent": "weather", "entities": [ENTITY], "action": "ask_day"}


def fields(**columns: Any) -> Any:
    return json.loads(understood({**ROW, **columns}).fields or "")


def test_the_intent_is_the_class_and_the_rest_goes_into_fields() -> None:
    parsed = understood(ROW)
    assert found(ROW).kind == "annotation"
    assert (said(parsed), parsed.label) == ([("user", "我在北京")], "weather")
    assert json.loads(parsed.fields or "") == {"entities": [ENTITY], "action": "ask_day"}


@pytest.mark.parametrize(
    "entities",
    [
        [{"entity_type": "city", "entity_value": "北京", "start_position": 2, "end_position": 4}],
        [{"entity": "city", "text": "北京", "start": 2}],
        json.dumps([ENTITY]),
    ],
)
def test_entities_have_one_form(entities: Any) -> None:
    assert fields(entities=entities)["entities"] == [ENTITY]


def test_slots_by_name_are_entities_without_a_place() -> None:
    slots = {"city": ["北京", "上海"], "day": "today"}
    expected = [("city", "北京"), ("city", "上海"), ("day", "today")]
    assert [(e["type"], e["value"]) for e in fields(entities=slots)["entities"]] == expected


@pytest.mark.parametrize("nothing", [None, [], "", {}])
def test_a_sentence_without_entities_has_none(nothing: Any) -> None:
    parsed = found(ROW).parse({**ROW, "entities": nothing})
    assert json.loads(parsed.fields or "")["entities"] == []


@pytest.mark.parametrize("damage", [[{"type": "city"}], ["北京"], "北京", 5])
def test_entities_of_the_wrong_shape_cost_their_row_only(damage: Any) -> None:
    with pytest.raises(Unusable, match="wrong shape"):
        found(ROW).parse({**ROW, "entities": damage})


def test_the_json_of_several_columns_is_the_answer_where_the_project_says_so() -> None:
    parsed = understood(ROW, response_column="intent+entities+action")
    answer = {"intent": "weather", "entities": [{"type": "city", "value": "北京"}], "action": "ask_day"}
    assert json.loads(said(parsed)[1][1]) == answer
    assert parsed.label == "weather"


def test_entities_without_an_intent_are_the_answer() -> None:
    row = {"full_text": "我在北京", "spans": [ENTITY]}
    assert json.loads(said(understood(row))[1][1]) == {"spans": [{"type": "city", "value": "北京"}]}
    assert found(row).words == "annotated text 'full_text', entities 'spans', answered by the JSON of spans"


def test_a_column_called_entities_that_holds_none_is_not_used() -> None:
    assert found({"text": "Q", "label": "A", "entities": 3}).kind == "classification"


def test_kept_columns_stand_beside_the_entities() -> None:
    parsed = understood({**ROW, "customer": 7}, keep_columns=("customer",))
    assert json.loads(parsed.fields or "") == {"entities": [ENTITY], "action": "ask_day", "customer": 7}
