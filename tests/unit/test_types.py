"""The nouns: they survive JSON, and ids are stable."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.types import Example, Interval, Message, Record, Verdict, record_id

messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.text(),
    reasoning=st.none() | st.text(),
)
records = st.builds(
    Record,
    id=st.text(min_size=1),
    messages=st.lists(messages, max_size=6).map(tuple),
    label=st.none() | st.text(),
    origin=st.text(),
    parents=st.lists(st.text()).map(tuple),
)


@given(records)
def test_record_survives_json(record: Record) -> None:
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


@given(records)
def test_prompt_and_answer_are_the_messages(record: Record) -> None:
    rest = record.messages[len(record.prompt) :]
    assert record.prompt + rest == record.messages
    assert not rest or rest[0].role == "assistant"
    assert all(m.role != "assistant" for m in rest[1:])
    assert record.answer == (rest[0].content if rest else "")


def test_reasoning_is_left_out_of_json_where_there_is_none() -> None:
    row = Record("1", (Message("user", "hi"), Message("assistant", "yes", "hm"))).to_json()
    assert row["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes", "reasoning": "hm"},
    ]


def test_record_from_little() -> None:
    assert Record.from_json({"id": "1", "messages": []}) == Record("1", ())


def test_nouns_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Record("1", ()).id = "2"  # type: ignore[misc]


def test_record_id_is_stable() -> None:
    # First 16 hex digits of: printf 'a.csv:2\0hello' | sha256sum
    assert record_id("hello", "a.csv:2") == "eb49406a3d315c2f"
    assert record_id("hello", "a.csv:3") != record_id("hello", "a.csv:2")
    assert len(record_id("\ud800", "")) == 16  # half a surrogate pair, as broken exports have


def test_label_tokens() -> None:
    assert Example("1", (1, 2, 3), (False, True, True)).label_tokens == 2


def test_verdict_to_json_is_json() -> None:
    row = Verdict("pass", "accuracy", Interval(0.3, 0.2, 0.4, 100, "Tango"), "better", 0.001).to_json()
    assert json.loads(json.dumps(row))["estimate"]["n"] == 100
