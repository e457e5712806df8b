"""Patterns, slots, and entity values that are exchanged everywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.data.makers.conftest import Make, rows, said, with_entities
from tuneloop.data.config import MakerConfig
from tuneloop.data.frame import make_frame


def test_a_pattern_takes_the_last_user_turn(make: Make) -> None:
    turns = [
        {"role": r, "content": c}
        for r, c in (("user", "hi"), ("assistant", "yes?"), ("user", "help"), ("assistant", "ok"))
    ]
    frame = make_frame({"id": ["a"], "messages": [turns], "label": ["x"], "source": [0]})
    new = make("templates", {"rate": 1.0, "patterns": ["Hello! {text} Thanks."]}, frame)
    assert [t["content"] for t in new["messages"].to_list()[0]] == ["hi", "yes?", "Hello! help Thanks.", "ok"]


def test_slots_are_filled_with_one_of_their_values(make: Make) -> None:
    options = {"rate": 1.0, "patterns": ["In {city} ({city}): {text}"], "slots": {"city": ["Oslo", "Rome"]}}
    assert set(said(make("templates", options, rows(["x"] * 40)))) == {"In Oslo (Oslo): x", "In Rome (Rome): x"}


def test_an_entity_is_exchanged_in_every_turn_and_in_the_fields(make: Make) -> None:
    turns = [
        {"role": "user", "content": "from Rome to Romefort"},
        {"role": "assistant", "content": "Rome it is", "reasoning": "Rome!"},
    ]
    frame = make_frame(
        {"id": ["a"], "messages": [turns], "label": ["x"], "source": [0], "fields": [with_entities({"city": "Rome"})]}
    )
    new = make("templates", {"rate": 1.0, "slots": {"city": ["Rome", "Oslo"]}}, frame)
    user, answer = new["messages"].to_list()[0]
    assert (user["content"], answer["content"], answer["reasoning"]) == ("from Oslo to Romefort", "Oslo it is", "Oslo!")
    assert json.loads(new["fields"][0]) == {"entities": {"city": "Oslo"}}


def test_the_pattern_names_the_value_that_the_row_has_now(make: Make) -> None:
    options = {"rate": 1.0, "patterns": ["About {city}: {text}"], "slots": {"city": ["Rome", "Oslo"]}}
    frame = rows(["weather in Rome"] * 10, fields=[with_entities([{"type": "city", "value": "Rome"}])] * 10)
    assert set(said(make("templates", options, frame))) == {"About Oslo: weather in Oslo"}


def test_offsets_follow_the_pattern_and_the_new_value(make: Make) -> None:
    options = {"rate": 1.0, "patterns": ["Please: {text}"], "slots": {"city": ["Reykjavik"]}}
    text = "from Rome to 北京"
    held = [
        {"type": "city", "value": "Rome", "start": 5, "end": 9},
        {"type": "to", "value": "北京", "start": 13, "end": 15},
    ]
    new = make("templates", options, rows([text], fields=[with_entities(held)]))
    (said_now,) = said(new)
    assert said_now == "Please: from Reykjavik to 北京"
    for entity in json.loads(new["fields"][0])["entities"]:
        assert said_now[entity["start"] : entity["end"]] == entity["value"]


def test_rows_with_tool_calls_keep_their_values(make: Make, counts: dict[str, Any]) -> None:
    turns = [
        {"role": "user", "content": "to Rome"},
        {"role": "assistant", "content": "", "tool_calls": '[{"name": "go", "arguments": "{\\"to\\": \\"Rome\\"}"}]'},
    ]
    frame = make_frame(
        {"id": ["a"], "messages": [turns], "label": ["x"], "source": [0], "fields": [with_entities({"city": "Rome"})]}
    )
    make("templates", {"rate": 1.0, "slots": {"city": ["Oslo"]}}, frame)
    assert counts["nothing_to_change"] == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "nothing to change"),
        ({"patterns": ["Hello"]}, "must hold {text} once"),
        ({"patterns": ["{text} {text}"]}, "must hold {text} once"),
        ({"patterns": ["{city} {text}"]}, "slot 'city', which has no values"),
        ({"slots": {"city": []}}, "needs values"),
        ({"slots": {"text": ["a"]}}, "cannot be called text"),
    ],
)
def test_patterns_and_slots_that_cannot_work_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        MakerConfig(name="templates", options=options)
