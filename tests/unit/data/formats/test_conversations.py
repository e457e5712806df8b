"""Functions, images, sounds and roles in conversations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rows import ANSWER, USER, calls, found, media, said, understood
from tuneloop.data.formats import Unusable

SCHEMA = {"name": "f", "description": "d", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": SCHEMA}
ASK = {"role": "user", "content": "Q"}


def openai(*turns: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {"messages": [ASK, *turns], **columns}


@pytest.mark.parametrize("arguments", [{"n": 1}, '{"n": 1}', '"{\\"n\\": 1}"'])
def test_openai_calls_are_read_whether_arguments_are_text_or_object(arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    row = openai(
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "R"},
        {"role": "assistant", "content": "A"},
    )
    parsed = understood(row)
    assert said(parsed) == [USER, ("assistant", ""), ("tool", "R"), ANSWER]
    assert calls(parsed) == [[("f", {"n": 1})]]


def test_the_older_function_call_is_a_call() -> None:
    row = openai({"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}})
    assert calls(understood(row)) == [[("f", {})]]


def test_sharegpt_calls_and_results_are_read() -> None:
    turns = [
        ("human", "Q"), ("function_call", '{"name": "f", "arguments": {"n": 1}}'), ("observation", "R"), ("gpt", "A"),
    ]  # fmt: skip
    row = {"conversations": [{"from": who, "value": what} for who, what in turns], "tools": json.dumps([SCHEMA])}
    parsed = understood(row)
    assert found(row).kind == "sharegpt"
    assert said(parsed) == [USER, ("assistant", ""), ("tool", "R"), ANSWER]
    assert calls(parsed) == [[("f", {"n": 1})]]
    assert json.loads(parsed.tools or "") == [WRAPPED]


def test_calls_that_follow_words_or_each_other_are_one_turn() -> None:
    turns = [
        ("human", "Q"),
        ("gpt", "I look."),
        ("function_call", '{"name": "f"}'),
        ("function_call", '[{"name": "g"}]'),
    ]
    parsed = understood({"conversations": [{"from": who, "value": what} for who, what in turns]})
    assert said(parsed) == [USER, ("assistant", "I look.")]
    assert calls(parsed) == [[("f", {}), ("g", {})]]


@pytest.mark.parametrize("tools", [[WRAPPED], [SCHEMA], json.dumps([SCHEMA]), SCHEMA, [{**WRAPPED, "strict": None}]])
def test_schemas_have_one_form(tools: Any) -> None:
    assert json.loads(understood(openai({"role": "assistant", "content": "A"}, tools=tools)).tools or "") == [WRAPPED]


@pytest.mark.parametrize("tools", [None, "", [], "[]"])
def test_no_functions_are_null(tools: Any) -> None:
    detected = found(openai(tools=[SCHEMA]))
    assert detected.parse(openai(tools=tools)).tools is None


@pytest.mark.parametrize(
    "damage",
    [
        {"tools": "{not json"},
        {"tools": [{"description": "no name"}]},
        {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
        {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{n"}]}]},
    ],
)
def test_a_damaged_call_or_schema_costs_its_row_only(damage: dict[str, Any]) -> None:
    good = openai({"role": "assistant", "content": "A"}, tools=[SCHEMA])
    with pytest.raises(Unusable, match="wrong shape"):
        found(good).parse({**good, **damage})


@pytest.mark.parametrize(
    ("part", "medium"),
    [
        ({"type": "image_url", "image_url": {"url": "u"}}, ("image", "u")),
        ({"type": "image_url", "image_url": "u"}, ("image", "u")),
        ({"type": "input_image", "image_url": "u"}, ("image", "u")),
        ({"type": "image", "image": "u"}, ("image", "u")),
        ({"type": "audio", "audio": "u"}, ("audio", "u")),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            ("audio", "data:audio/wav;base64,UklG"),
        ),
    ],
)
def test_parts_of_a_message_become_media(part: dict[str, Any], medium: tuple[str, str]) -> None:
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}, part]}]}
    assert media(understood(row)) == [("Q", [medium])]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "video_url", "video_url": "v"}, "a content part of type 'video_url'"),
        ({"type": "image_url"}, "an image without a path or a URL"),
        (5, "a content part of type 'int'"),
    ],
)
def test_parts_that_no_message_can_hold_are_named(part: Any, reason: str) -> None:
    good = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}]}
    with pytest.raises(Unusable, match=reason):
        found(good).parse({"messages": [{"role": "user", "content": [part]}]})


def test_media_of_columns_go_to_the_turns_that_point_to_them() -> None:
    turns = [("human", "<image>\nQ"), ("gpt", "A"), ("human", "<image><audio>more"), ("gpt", "B")]
    row = {
        "conversations": [{"from": who, "value": what} for who, what in turns],
        "images": ["1.png", "2.png"],
        "audios": ["3.wav"],
    }
    one, two, three = ("image", "1.png"), ("image", "2.png"), ("audio", "3.wav")
    assert media(understood(row)) == [("Q", [one]), ("more", [two, three])]


def test_media_that_nothing_points_to_go_to_the_first_question() -> None:
    row = openai({"role": "assistant", "content": "A"}, images=[{"path": "1.png"}])
    assert media(understood(row)) == [("Q", [("image", "1.png")])]


def test_more_pointers_than_media_cost_the_row() -> None:
    row = {"messages": [{"role": "user", "content": "<image><image>Q"}], "images": ["1.png"]}
    with pytest.raises(Unusable, match="2 times <image> for 1 in the column"):
        understood(row)


def test_a_pointer_without_media_is_text() -> None:
    detected = found(openai(images=["1.png"]))
    assert (
        said(detected.parse({"messages": [{"role": "user", "content": "<image>?"}], "images": []}))[0][1] == "<image>?"
    )


def test_developer_is_system() -> None:
    row = {"messages": [{"role": "developer", "content": "S"}, ASK]}
    assert said(understood(row)) == [("system", "S"), USER]


def test_sys_answers_in_a_dialogue_and_instructs_beside_an_assistant() -> None:
    dialogue = {"messages": [{"role": "usr", "content": "Q"}, {"role": "sys", "content": "A"}]}
    assert said(understood(dialogue)) == [USER, ANSWER]
    chat = {"messages": [{"role": "sys", "content": "S"}, ASK, {"role": "assistant", "content": "A"}]}
    assert said(understood(chat)) == [("system", "S"), USER, ANSWER]


def test_a_system_column_yields_to_a_system_turn() -> None:
    row = {"messages": [{"role": "system", "content": "S"}, ASK], "system": "T"}
    assert said(understood(row)) == [("system", "S"), USER]


def test_an_answer_that_is_not_to_be_learned_costs_the_row() -> None:
    with pytest.raises(Unusable, match="weight 0"):
        understood(openai({"role": "assistant", "content": "A", "weight": 0}))


def test_the_class_of_a_conversation_is_its_label() -> None:
    assert understood(openai({"role": "assistant", "content": "A"}, intent="L")).label == "L"


def test_what_was_found_is_said_in_words() -> None:
    sharegpt = {"conversations": [{"from": "human", "value": "Q"}], "tools": "[]", "images": ["x"]}
    assert found(sharegpt).words == "ShareGPT conversations in 'conversations', functions in 'tools', with 'images'"
    assert found(openai()).words == "OpenAI messages in 'messages'"
    assert found({"log": [{"speaker": "customer", "text": "Q"}]}).words == "dialogues in 'log'"
