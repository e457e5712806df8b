"""A better and a worse answer; answers judged one by one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rows import ANSWER, USER, WORSE, found, said, understood
from tuneloop.data.formats import Unusable
from tuneloop.errors import DataError

ASK, BETTER, WORST = (
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A"},
    {"role": "assistant", "content": "W"},
)
SHARED = {"from": "human", "value": "Q"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "A", "rejected": "W"},
        {"question": "Q", "response_chosen": "A", "response_rejected": "W"},
        {"instruction": "Q", "input": "", "chosen": "A", "rejected": "W"},
        {"prompt": [ASK], "chosen": [BETTER], "rejected": [WORST]},
        {"prompt": "other words", "chosen": [ASK, BETTER], "rejected": [ASK, WORST]},
        {"chosen": [ASK, BETTER], "rejected": [ASK, WORST]},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: W"},
        {"conversations": [SHARED], "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "W"}},
        {"conversations": [SHARED], "chosen": "A", "rejected": "W"},
        {"messages": [ASK, BETTER], "rejected_response": "W"},
        {"messages": [ASK, BETTER], "rejected_messages": [ASK, WORST]},
        {"query": "Q", "response": "A", "rejected_response": "W"},
        {"input": {"messages": [ASK]}, "preferred_output": [BETTER], "non_preferred_output": [WORST]},
    ],
)
def test_pairs_of_every_shape_are_one_conversation_with_the_worse_answer_last(row: dict[str, Any]) -> None:
    assert found(row).kind == "preference"
    assert said(understood(row)) == [USER, ANSWER, WORSE]


def test_system_and_history_stand_before_the_answers() -> None:
    row = {"system": "S", "history": [["q", "a"]], "question": "Q", "response_chosen": "A", "response_rejected": "W"}
    assert said(understood(row)) == [("system", "S"), ("user", "q"), ("assistant", "a"), USER, ANSWER, WORSE]


def test_the_system_prompt_of_a_column_stands_before_a_prompt_inside_the_answers() -> None:
    row = {"prompt": "Q", "system": "S", "chosen": [ASK, BETTER], "rejected": [ASK, WORST]}
    assert said(understood(row))[0] == ("system", "S")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"rejected": "A"}, "no preference: the better and the worse answer are equal"),
        ({"rejected": None}, "no preference: the worse answer is empty"),
    ],
)
def test_a_pair_without_a_preference_is_named(damage: dict[str, Any], reason: str) -> None:
    row = {"prompt": "Q", "chosen": "A", "rejected": "W"}
    with pytest.raises(Unusable, match=reason):
        found(row).parse({**row, **damage})


def test_conversations_that_part_before_the_last_answer_are_no_pair() -> None:
    row = {"chosen": [ASK, BETTER], "rejected": [ASK, WORST]}
    with pytest.raises(Unusable, match="differ before the last answer"):
        found(row).parse({"chosen": [ASK, BETTER, ASK, BETTER], "rejected": [ASK, WORST, ASK, WORST]})


def test_answers_without_a_question_are_no_pair() -> None:
    with pytest.raises(DataError, match="no format fits"):
        found({"chosen": "A", "rejected": "W"})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, BETTER], "label": True},
        {"conversations": [SHARED, {"from": "gpt", "value": "A"}], "kto_tag": True},
        {"prompt": "Q", "completion": "A", "label": "True"},
        {"prompt": [ASK], "completion": [BETTER], "label": True},
        {"instruction": "Q", "input": "", "output": "A", "kto_tag": 1},
    ],
)
def test_judged_answers_of_every_shape_carry_their_verdict(row: dict[str, Any]) -> None:
    parsed = understood(row)
    assert found(row).kind == "kto"
    assert (said(parsed), parsed.desirable, parsed.label) == ([USER, ANSWER], True, None)


def test_a_bad_answer_is_kept_with_its_verdict() -> None:
    row = {"messages": [ASK, BETTER], "label": True}
    assert found(row).parse({**row, "label": False}).desirable is False


def test_a_row_without_a_verdict_is_named() -> None:
    row = {"messages": [ASK, BETTER], "label": True}
    with pytest.raises(Unusable, match="no verdict: 'label' says neither true nor false"):
        found(row).parse({**row, "label": None})


def test_verdicts_count_in_a_format_that_was_asked_for_too() -> None:
    row = {"messages": [ASK, BETTER], "label": False}
    assert understood(row, format="messages").desirable is False


def test_a_label_of_numbers_is_no_verdict() -> None:
    assert found({"prompt": "Q", "completion": "A", "label": 1}).kind == "pair"


def test_what_was_found_is_said_in_words() -> None:
    row = {"prompt": "Q", "chosen": "A", "rejected": "W"}
    assert found(row).words == "preference pairs: 'prompt', better answer in 'chosen', worse in 'rejected'"
    row = {"prompt": "Q", "completion": "A", "label": True}  # type: ignore[dict-item]
    assert found(row).words == "'prompt' answered by 'completion', answers judged good or bad by 'label' (KTO)"
