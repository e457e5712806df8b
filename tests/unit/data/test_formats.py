"""Formats are detected, not declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tuneloop.data import DataConfig
from tuneloop.data.formats import Detected, Parsed, Unusable, detect
from tuneloop.data.rows import RawFile, RawRow
from tuneloop.errors import DataError


def file(*rows: Mapping[str, Any]) -> RawFile:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return RawFile.start("rows.json", [RawRow(i + 1, "", row) for i, row in enumerate(rows)], columns)


def found(*rows: Mapping[str, Any], **config: Any) -> Detected:
    return detect(file(*rows), DataConfig(sources="rows.json", **config))


def said(parsed: Parsed) -> list[tuple[Any, Any]]:
    return [(turn["role"], turn["content"]) for turn in parsed.turns]


USER, ANSWER = ("user", "Q"), ("assistant", "A")


@pytest.mark.parametrize(
    ("row", "kind", "turns", "label"),
    [
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
            "messages",
            [USER, ANSWER],
            None,
        ),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "sharegpt",
            [USER, ANSWER],
            None,
        ),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"},
            "sharegpt",
            [("system", "S"), USER, ANSWER],
            None,
        ),
        ({"instruction": "Q", "input": "", "output": "A"}, "alpaca", [USER, ANSWER], None),
        ({"instruction": "Q", "input": "more", "output": "A"}, "alpaca", [("user", "Q\nmore"), ANSWER], None),
        (
            {"instruction": "Q", "output": "A", "history": [["q1", "a1"]]},
            "alpaca",
            [("user", "q1"), ("assistant", "a1"), USER, ANSWER],
            None,
        ),
        ({"instruction": "Q", "instances": [{"input": "", "output": "A"}]}, "alpaca", [USER, ANSWER], None),
        ({"prompt": "Q", "response": "A"}, "pair", [USER, ANSWER], None),
        ({"prompt": "Q", "completion": "A"}, "pair", [USER, ANSWER], None),
        ({"query": "Q", "answer": "A"}, "pair", [USER, ANSWER], None),
        ({"question": "Q", "answer": "A"}, "pair", [USER, ANSWER], None),
        ({"input_text": "Q", "target_text": "A"}, "pair", [USER, ANSWER], None),
        ({"问题": "Q", "回答": "A"}, "pair", [USER, ANSWER], None),
        ({"科室": "内科", "标题": "T", "问题": "Q", "回答": "A"}, "pair", [("user", "T\nQ"), ANSWER], "内科"),
        ({"text": "Q", "intent": "A"}, "classification", [USER], "A"),
        ({"Text": "Q", "CATEGORY": "A"}, "classification", [USER], "A"),
        ({"text": "Q", "label": 1}, "classification", [USER], "1"),
        ({"文本": "Q", "标签": "A"}, "classification", [USER], "A"),
        ({"text": "A"}, "text", [ANSWER], None),
    ],
)
def test_format_is_detected(
    row: Mapping[str, Any], kind: str, turns: Sequence[tuple[str, str]], label: str | None
) -> None:
    detected = found(row)
    parsed = detected.parse(row)

    assert detected.kind == kind
    assert said(parsed) == list(turns)
    assert parsed.label == label


def test_reasoning_travels_with_its_turn() -> None:
    row = {
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "reasoning_content": "R"}]
    }
    assert found(row).parse(row).turns[1]["reasoning"] == "R"


def test_text_parts_of_a_message_are_joined() -> None:
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}
    assert said(found(row).parse(row)) == [("user", "a\nb")]


@pytest.mark.parametrize(
    "turns", ["hello", [{"role": "narrator", "content": "x"}], [{"role": 5, "content": "x"}], ["hello"], [None]]
)
def test_a_conversation_of_the_wrong_shape_costs_its_row_only(turns: Any) -> None:
    good = {"messages": [{"role": "user", "content": "Q"}]}
    with pytest.raises(Unusable):
        found(good).parse({"messages": turns})


def test_columns_can_be_named() -> None:
    row = {"body": "Q", "reply": "A", "dept": "L"}
    assert said(found(row, prompt_column="body", response_column="reply").parse(row)) == [USER, ANSWER]
    assert found(row, prompt_column="body", label_column="dept").parse(row).label == "L"
    assert said(found(row, prompt_column="body", format="text").parse(row)) == [("assistant", "Q")]


def test_a_named_column_that_is_missing_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(DataError) as error:
        found({"body": "x", "reply": "y"}, prompt_column="text")
    assert str(error.value).splitlines() == [
        "rows.json:1: there is no column 'text'",
        "hint: the columns are: body, reply; set data.prompt_column",
    ]


def test_columns_that_mean_nothing_are_an_error_that_lists_them() -> None:
    with pytest.raises(DataError, match="no format fits") as error:
        found({"名前": "x", "住所": "y"})
    assert "the columns are: 名前, 住所; set data.prompt_column" in str(error.value)


def test_a_format_that_was_asked_for_and_does_not_fit_is_an_error() -> None:
    with pytest.raises(DataError, match="do not look like 'sharegpt'"):
        found({"text": "Q", "label": "A"}, format="sharegpt")


def test_a_class_name_is_one_line_without_surrounding_space() -> None:
    row = {"text": "Q", "label": " card \n arrival "}
    assert found(row).parse(row).label == "card arrival"
