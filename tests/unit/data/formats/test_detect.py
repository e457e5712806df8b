"""Formats are detected, not declared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.rows import ANSWER, USER, found, said, understood
from tuneloop.data import DataConfig
from tuneloop.data.formats import Unusable, check_kept
from tuneloop.errors import DataError


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
        ({"文本": "Q", "标题": "T", "分类": "A"}, "classification", [("user", "T\nQ")], "A"),
        ({"text": "A"}, "text", [ANSWER], None),
        ({"title": "T", "content": "A", "page": 3}, "text", [("assistant", "T\nA")], None),
        ({"page": "A long page. " * 9}, "text", [("assistant", "A long page. " * 9)], None),
        ({"指令": "Q", "输入": "more", "输出": "A"}, "alpaca", [("user", "Q\nmore"), ANSWER], None),
        ({"标题": "Q", "回答": "A"}, "pair", [USER, ANSWER], None),
        ({"ask": "Q", "answer": "A", "title": "T", "department": "L"}, "pair", [("user", "T\nQ"), ANSWER], "L"),
        ({"用户": "Q", "助手": "A"}, "pair", [USER, ANSWER], None),
        (
            {"query": "Q", "response": "A", "history": [["q1", "a1"]], "system": "S"},
            "pair",
            [("system", "S"), ("user", "q1"), ("assistant", "a1"), USER, ANSWER],
            None,
        ),
        ({"question": "Q", "answer": "so\n#### 42"}, "pair", [USER, ("assistant", "so\n#### 42")], None),
        ({"question": "Q", "context": "C", "answers": {"text": ["A", "B"]}}, "pair", [("user", "C\nQ"), ANSWER], None),
        ({"questions": [["Q", "q"]], "answers": ["A", "B"]}, "pair", [USER, ANSWER], None),
        (
            {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]},
            "pair",
            [USER, ANSWER],
            None,
        ),
        ({"messages": '[{"role": "user", "content": "Q"}]'}, "messages", [USER], None),
        (
            {"log": [{"speaker": "customer", "text": "Q"}, {"speaker": "agent", "text": "A"}]},
            "messages",
            [USER, ANSWER],
            None,
        ),
        ({"conversation": [{"human": "Q", "assistant": "A"}]}, "messages", [USER, ANSWER], None),
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


def test_rows_without_a_usual_column_are_text_and_that_is_said() -> None:
    detected = found({"名前": "x", "住所": "y", "年齢": None})
    assert detected.kind == "rows"
    assert detected.words.startswith(
        "no column has a usual name: each row as text, 'column: value' (all of it is learned)"
    )
    assert detected.parse({"名前": "x", "住所": " ", "年齢": 7}).turns[0]["content"] == "名前: x\n年齢: 7"


def test_a_format_that_was_asked_for_and_does_not_fit_is_an_error() -> None:
    with pytest.raises(DataError, match="do not look like 'sharegpt'"):
        found({"text": "Q", "label": "A"}, format="sharegpt")


def test_a_class_name_is_one_line_without_surrounding_space() -> None:
    row = {"text": "Q", "label": " card \n arrival "}
    assert found(row).parse(row).label == "card arrival"


MANY = 40
LONG = [f"a summary of the text with the number {i}, long enough to be one" for i in range(MANY)]


def test_a_label_that_is_a_different_sentence_in_each_row_is_an_answer() -> None:
    rows = [{"text": f"Q{i}", "label": LONG[i]} for i in range(MANY)]
    assert found(*rows).kind == "pair"
    assert said(found(*rows).parse(rows[0])) == [("user", "Q0"), ("assistant", LONG[0])]


def test_a_category_that_is_a_different_sentence_in_each_row_is_no_class() -> None:
    rows = [{"question": "Q", "answer": "A", "category": LONG[i]} for i in range(MANY)]
    assert found(*rows).parse(rows[0]).label is None


def test_many_different_labels_are_classes_with_a_question() -> None:
    rows = [{"text": f"Q{i}", "label": f"{i}.5"} for i in range(MANY)]
    assert (
        found(*rows).words == "text 'text' with its class in 'label' (40 different values in 40 rows: is it a class?)"
    )


def test_answers_that_look_like_classes_are_pointed_out() -> None:
    rows = [{"question": f"Q{i}", "answer": ("yes", "no")[i % 2]} for i in range(MANY)]
    words = "'question' answered by 'answer' (2 different answers: if they are classes, set data.label_column: answer)"
    assert found(*rows).words == words
    detected = found(*rows, label_column="answer")
    assert (detected.kind, detected.parse(rows[0]).label) == ("classification", "yes")


def test_of_several_answers_the_first_is_taken_and_that_is_said() -> None:
    assert found({"question": "Q", "answers": ["A", "B"]}).words.endswith("the first where there are several")
    seeds = {"instruction": "Q", "instances": [{"input": "", "output": "A"}, {"input": "", "output": "B"}]}
    assert found(seeds).words == "Alpaca (instruction + instances), the first of the instances"


def test_a_page_number_is_no_text() -> None:
    assert found({"page": "12"}).kind == "rows"


def test_the_advice_names_the_column_that_holds_text() -> None:
    words = found({"名前": "x", "コメント": "long enough to be what somebody wrote"}).words
    assert "set data.prompt_column (text stands in 'コメント')" in words


@pytest.mark.parametrize("history", [[["q"]], ["q", "a"], "q"])
def test_a_history_of_the_wrong_shape_costs_its_row_only(history: Any) -> None:
    row = {"instruction": "Q", "output": "A", "history": []}
    with pytest.raises(Unusable, match="wrong shape"):
        found(row).parse({**row, "history": history})


def test_instances_of_the_wrong_shape_cost_their_row_only() -> None:
    detected = found({"instruction": "Q", "instances": [{"input": "", "output": "A"}]})
    for instances in ([], ["A"], None):
        with pytest.raises(Unusable, match="wrong shape"):
            detected.parse({"instruction": "Q", "instances": instances})


def test_kept_columns_travel_as_fields_under_the_name_of_the_project() -> None:
    row = {"question": "Q", "answer": "A", "Customer_ID": 7, "when": None}
    detected = found(row, keep_columns=("customer_id", "when"), group_column="customer_id", stratify_columns=("label",))
    assert json.loads(detected.parse(row).fields or "") == {"customer_id": 7, "when": None}
    assert detected.used == ("question", "answer", "Customer_ID", "when")
    assert detected.words.endswith("kept: customer_id, when")


def test_groups_and_strata_are_kept() -> None:
    row = {"text": "Q", "label": "A", "customer": "x", "region": "north"}
    parsed = understood(row, group_column="customer", stratify_columns=("label", "region"))
    assert json.loads(parsed.fields or "") == {"customer": "x", "region": "north"}


def test_a_column_to_keep_may_be_missing_in_one_source_but_not_in_all() -> None:
    config = DataConfig(sources="rows.json", keep_columns=("customer",))
    having = found({"text": "A", "customer": "x"}, keep_columns=("customer",))
    lacking = found({"text": "A"}, keep_columns=("customer",))
    check_kept(config, [having.missing, lacking.missing])
    with pytest.raises(DataError, match="no source has a column 'customer'"):
        check_kept(config, [lacking.missing, lacking.missing])


def test_half_a_character_becomes_the_replacement_character() -> None:
    assert said(understood({"text": "a\ud83d"})) == [("assistant", "a\ufffd")]
