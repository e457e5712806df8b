"""Steps that drop rows: empty, truncated, duplicates; and redaction."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from tuneloop.data.frame import make_frame
from tuneloop.data.steps.complete import Empty, Truncated
from tuneloop.data.steps.exact import ExactDuplicates
from tuneloop.data.steps.near import NearDuplicates
from tuneloop.data.steps.redact import Redact

LONG = "abcdefghijklmnopqrstuvwxyz0123456789"
"""36 characters: 32 different 5-grams. Four more characters make 36 of them: similarity 32/36 = 0.89."""


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def pair(question: str, answer: str) -> list[dict[str, Any]]:
    return [*user(question), {"role": "assistant", "content": answer}]


def rows(
    *conversations: list[dict[str, Any]], label: list[str | None] | None = None, pinned: list[str | None] | None = None
) -> pl.DataFrame:
    """Rows r0, r1, ... of classes (default: all 'x' where nobody answers)."""
    labels = label or ["x" if len(c) == 1 else None for c in conversations]
    ids = [f"r{i}" for i in range(len(conversations))]
    return make_frame(
        {"id": ids, "messages": list(conversations), "label": labels, "pinned": pinned or [None] * len(ids)}
    )


def reasons(frame: pl.DataFrame) -> list[str | None]:
    return frame["dropped_reason"].to_list()


def test_rows_that_say_nothing_are_empty() -> None:
    after = Empty().apply(rows(user(""), user(" \n"), user("- !?"), user("👍"), user("ok"), pair("", "an answer")))
    nothing, marks = "empty: there is no text", "empty: there is nothing but punctuation"
    assert reasons(after) == [nothing, nothing, marks, None, None, nothing]


def test_rows_whose_answers_are_all_blank_are_empty() -> None:
    call = [*user("q"), {"role": "assistant", "content": "", "tool_calls": '[{"name": "f", "arguments": "{}"}]'}]
    half = [*pair("q", " "), *pair("and now?", "an answer")]
    after = Empty().apply(rows(pair("q", " \n"), pair("q", "a"), call, half, user("a class is its answer")))
    assert reasons(after) == ["empty: the answer is empty", None, None, None, None]


def test_rows_without_an_answer_are_truncated() -> None:
    after = Truncated().apply(rows(user("q"), user("q"), pair("q", ""), pair("q", "a"), label=["x", None, None, None]))
    assert reasons(after) == [None, "no answer: neither an answer nor a class", "no answer: the answer is empty", None]


def test_turns_after_the_last_answer_are_cut_and_noted() -> None:
    after = Truncated().apply(rows([*pair("q", "a"), *user("thanks")]))
    assert [m["content"] for m in after["messages"][0]] == ["q", "a"]
    assert after["history"][0].to_list() == [{"step": "truncated", "message": 2, "before": "thanks", "after": ""}]
    assert reasons(after) == [None]


def test_a_worse_answer_is_not_cut_off() -> None:
    worse = {"role": "rejected", "content": "w", "reasoning": None}
    after = Truncated().apply(rows([*pair("q", "a"), worse]))
    assert after["messages"].list.len().to_list() == [3]
    assert after["history"].list.len().to_list() == [0]


def test_a_function_call_is_an_answer() -> None:
    call = {"role": "assistant", "content": "", "reasoning": None, "tool_calls": '[{"name": "f", "arguments": "{}"}]'}
    assert reasons(Truncated().apply(rows([*user("q"), call]))) == [None]


def test_an_image_without_words_is_not_empty() -> None:
    image = {"role": "user", "content": "", "reasoning": None, "media": '[{"kind": "image", "source": "x"}]'}
    assert reasons(Empty().apply(rows([image], user("")))) == [None, "empty: there is no text"]


def test_the_first_of_equal_rows_is_kept_and_named() -> None:
    after = ExactDuplicates().apply(rows(user("Lost my card"), user("other"), user("lost  my card!!")))
    assert reasons(after) == [None, None, "duplicate: same text as r0"]
    assert after["partner"].to_list() == [None, None, "r0"]


def test_the_class_of_the_majority_wins_a_contradiction() -> None:
    after = ExactDuplicates().apply(rows(*[user("same")] * 3, label=["b", "a", "a"]))
    assert reasons(after) == [
        "contradicts: same text as r1, whose class has the majority",
        None,
        "duplicate: same text as r1",
    ]


def test_a_contradiction_without_majority_drops_all() -> None:
    after = ExactDuplicates().apply(rows(*[user("same")] * 2, label=["a", "b"]))
    assert reasons(after) == [
        "contradicts: same text as r1 with another class, and no majority",
        "contradicts: same text as r0 with another class, and no majority",
    ]


def test_two_answers_to_one_question_are_not_duplicates() -> None:
    assert reasons(ExactDuplicates().apply(rows(pair("q", "a"), pair("q", "b"), pair("q", "a")))) == [
        None,
        None,
        "duplicate: same text as r0",
    ]


def test_a_row_of_a_prescribed_test_set_is_kept_and_its_copy_is_a_leak() -> None:
    frame = rows(*[user("same")] * 4, label=["x", "x", "y", "x"], pinned=[None, "test", "test", "validation"])
    assert reasons(ExactDuplicates().apply(frame)) == [
        "leak: same text as r1 of the test source",
        None,
        None,
        "leak: same text as r1 of the test source",
    ]


def test_near_duplicate_names_a_kept_row_and_the_similarity() -> None:
    after = NearDuplicates().apply(rows(user(LONG), user("something else altogether"), user(LONG + "-yet")))
    assert reasons(after) == [None, None, "near-duplicate: 0.89 similar to r0"]
    assert after["partner"].to_list() == [None, None, "r0"]


def test_threshold_is_exact() -> None:
    two = rows(user(LONG), user(LONG + "-yet"))
    assert reasons(NearDuplicates(threshold=32 / 36).apply(two))[1] is not None
    assert reasons(NearDuplicates(threshold=32 / 36 + 1e-9).apply(two)) == [None, None]


def test_a_chain_of_similar_rows_is_not_deleted_to_its_end() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(56))
    chain = [text[i : i + 40] for i in range(0, 20, 4)]  # neighbours: 32 of 40 shingles; next but one: 28 of 44
    after = reasons(NearDuplicates(threshold=0.7).apply(rows(*[user(t) for t in chain])))
    assert after == [None, "near-duplicate: 0.80 similar to r0", None, "near-duplicate: 0.80 similar to r2", None]


def test_similar_rows_of_different_classes_are_both_kept_in_one_group() -> None:
    after = NearDuplicates().apply(rows(user(LONG), user(LONG + "-yet"), user("far away"), label=["a", "b", "a"]))
    assert reasons(after) == [None, None, None]
    assert after["group"].to_list() == ["r0", "r0", None]


def test_rows_that_resemble_a_prescribed_test_set_are_leaks() -> None:
    frame = rows(user(LONG), user(LONG + "-yet"), user(LONG + "-so"), pinned=[None, "test", "test"])
    assert reasons(NearDuplicates().apply(frame)) == ["leak: 0.89 similar to r1 of the test source", None, None]


def test_a_giant_group_is_noted() -> None:
    step = NearDuplicates()
    step.apply(rows(*[user(f"Dear customer, this is the standard notice number {i:04}.") for i in range(300)]))
    assert len(step.notes) == 1
    assert "template" in step.notes[0]


def test_redaction_keeps_types_and_offsets() -> None:
    after = Redact().apply(rows(pair("mail a@b.example or 07700 900123", "I wrote to a@b.example"), user("nothing")))

    assert [m["content"] for m in after["messages"][0]] == ["mail [EMAIL] or [PHONE]", "I wrote to [EMAIL]"]
    assert after["redactions"].to_list() == [
        [
            {"message": 0, "type": "EMAIL", "start": 5, "end": 16},
            {"message": 0, "type": "PHONE", "start": 20, "end": 32},
            {"message": 1, "type": "EMAIL", "start": 11, "end": 22},
        ],
        [],
    ]


def test_redaction_reaches_calls_reasoning_and_kept_columns() -> None:
    arguments = json.dumps({"phone": 13800138000, "note": "mail a.b@mail.example", "n": 5})
    calls = json.dumps([{"name": "ring", "arguments": arguments}])
    turns = [
        {"role": "user", "content": "ring me", "tool_calls": None},
        {"role": "assistant", "content": "", "reasoning": "she has 13800138000", "tool_calls": calls},
    ]
    fields = json.dumps({"customer": "a.b@mail.example", "amount": 12})
    step = Redact()
    after = step.apply(make_frame({"id": ["a"], "messages": [turns], "fields": [fields]}))

    said = after["messages"].to_list()[0][1]
    assert said["reasoning"] == "she has [PHONE]"
    (call,) = json.loads(said["tool_calls"])
    assert json.loads(call["arguments"]) == {"phone": "[PHONE]", "note": "mail [EMAIL]", "n": 5}
    assert after["fields"].to_list() == [fields], "groups are still told apart by the true value"
    assert json.loads(step.mask_fields(after["fields"])[0]) == {"customer": "[EMAIL]", "amount": 12}
    assert sorted(span["type"] for span in after["redactions"][0]) == ["EMAIL", "PHONE", "PHONE"]


def test_pairs_that_differ_only_in_what_was_rejected_are_no_duplicates() -> None:
    def preference(worse: str) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "good"},
            {"role": "rejected", "content": worse},
        ]

    frame = make_frame({"id": ["a", "b", "c"], "messages": [preference("bad"), preference("worse"), preference("bad")]})
    after = ExactDuplicates().apply(frame)
    assert after["dropped_reason"].to_list() == [None, None, "duplicate: same text as a"]
