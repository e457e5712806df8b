from __future__ import annotations

import pytest

from tests.unit.evaluate.conftest import record
from tuneloop.evaluate.answers import UNKNOWN, labels_of, normalise


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  Lost_Card.\n", "lost_card"),
        ('"refund"', "refund"),
        ("ＲＥＦＵＮＤ！", "refund"),
        ("挂失。", "挂失"),
        ("「挂失」。", "挂失"),
        ("two\n words", "two words"),
        ("...", ""),
        ("C++", "c++"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
    ],
)
def test_normalise(raw: str, expected: str) -> None:
    assert normalise(raw) == expected


RECORDS = [record(1, "q", "lost_card", "lost_card"), record(2, "q", "card_arrival", "card_arrival")]


def test_a_class_is_named_word_for_word() -> None:
    labels, _ = labels_of(RECORDS)
    assert labels is not None
    assert labels.predict("Lost_card.") == "lost_card"
    assert labels.predict("The intent is lost_card") == UNKNOWN


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The intent is lost_card, sir", "lost_card"),
        ("lost card", "lost_card"),
        ("lost_card or card_arrival", UNKNOWN),
        ("lost_cards", UNKNOWN),
        ("nothing", UNKNOWN),
    ],
)
def test_a_mention_counts_when_it_is_the_only_one(answer: str, expected: str) -> None:
    labels, _ = labels_of(RECORDS)
    assert labels is not None
    assert labels.mentioned(answer) == expected


def test_a_class_inside_another_is_not_a_second_mention() -> None:
    labels, _ = labels_of([record(1, "q", "card", "card"), record(2, "q", "card lost", "card lost")])
    assert labels is not None
    assert labels.mentioned("it says card lost") == "card lost"


def test_chinese_classes_need_no_word_borders() -> None:
    labels, _ = labels_of([record(1, "q", "内科", "内科"), record(2, "q", "外科", "外科")])
    assert labels is not None
    assert labels.mentioned("建议您挂内科就诊。") == "内科"


def test_the_answers_words_may_differ_from_the_class() -> None:
    labels, _ = labels_of([record(1, "q", "Intent: refund", "refund"), record(2, "q", "Intent: other", "other")])
    assert labels is not None
    assert labels.predict("intent: refund") == labels.predict("refund") == "refund"


def test_free_text_is_not_a_classification() -> None:
    labels, why = labels_of([*RECORDS, record(3, "q", "Sorry to hear that", None)])
    assert labels is None
    assert why == "1 of 3 records have no label, so the answers are free text"


def test_a_class_answered_in_many_words_is_not_a_classification() -> None:
    labels, why = labels_of([record(1, "q", "Take rest", "flu"), record(2, "q", "Drink tea", "flu")])
    assert labels is None
    assert "'flu'" in why
