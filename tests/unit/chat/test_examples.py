from __future__ import annotations

import pytest

from tests.tiny import Style, tiny_tokenizer
from tuneloop.chat import Chat
from tuneloop.errors import DataError
from tuneloop.types import Dropped, Message, Record

TWO_TURNS = Record(
    "r1",
    (
        Message("user", "hello"),
        Message("assistant", "hi"),
        Message("user", "and now?"),
        Message("assistant", "done"),
    ),
    origin="a.csv:3",
)


def learnt(chat: Chat, record: Record, **settings: object) -> list[tuple[str, str]]:
    rows = chat.examples(record, **settings)  # type: ignore[arg-type]
    return [
        (e.id, chat.tokenizer.decode([i for i, m in zip(e.input_ids, e.loss_mask, strict=True) if m])) for e in rows
    ]


@pytest.mark.parametrize("style", ["llama3", "chatml", "smollm"])
def test_turns_whose_prompts_grow_share_a_row(style: Style) -> None:
    chat = Chat(tiny_tokenizer(style))
    end = chat.tokenizer.convert_ids_to_tokens(chat.end_ids[0])
    assert learnt(chat, TWO_TURNS) == [("r1", f"hi{end}done{end}")]


def test_where_history_is_rewritten_each_turn_is_a_row() -> None:
    chat = Chat(tiny_tokenizer("r1-distill"))
    end = "<｜end▁of▁sentence｜>"
    assert learnt(chat, TWO_TURNS) == [("r1:1", f"\n</think>\n\nhi{end}"), ("r1:2", f"\n</think>\n\ndone{end}")]


def test_the_last_turn_only() -> None:
    assert learnt(Chat(tiny_tokenizer("chatml")), TWO_TURNS, turns="last") == [("r1", "done<|im_end|>")]


def test_a_row_that_is_too_long_is_dropped_with_its_numbers_and_never_cut() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    whole = chat.examples(TWO_TURNS)[0]
    first = chat.examples(Record("r1", TWO_TURNS.messages[:2]))[0]
    lost: list[Dropped] = []
    kept = chat.examples(TWO_TURNS, max_length=len(whole.input_ids) - 1, dropped=lost)
    assert kept == [first]
    assert [(d.id, d.origin, d.step) for d in lost] == [("r1", "a.csv:3", "tokenise")]
    size = len(whole.input_ids)
    assert lost[0].reason == f"assistant message 2 needs {size} tokens, max_length is {size - 1}"
    assert chat.examples(TWO_TURNS, max_length=size, dropped=lost) == [whole]


def test_a_loss_that_nobody_receives_is_an_error() -> None:
    with pytest.raises(DataError, match=r"a\.csv:3 record r1: assistant message 1 needs"):
        Chat(tiny_tokenizer("chatml")).examples(TWO_TURNS, max_length=5)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((Message("user", "hello"),), "no assistant message to learn from"),
        ((Message("user", "hello"), Message("assistant", " \n")), "assistant message 1 is empty"),
    ],
)
def test_a_row_without_a_label_is_reported(messages: tuple[Message, ...], reason: str) -> None:
    lost: list[Dropped] = []
    assert Chat(tiny_tokenizer("chatml")).examples(Record("x", messages), dropped=lost) == []
    assert [d.reason for d in lost] == [reason]


def test_what_the_template_refuses_is_reported() -> None:
    lost: list[Dropped] = []
    chat = Chat(tiny_tokenizer("chatml"), template="{{ raise_exception('odd') if messages | length == 1 }}<|im_end|>")
    assert chat.examples(Record("x", (Message("user", "q"), Message("assistant", "a"))), dropped=lost) == []
    assert "refuses these messages (user): odd" in lost[0].reason


def test_an_answer_without_a_token_before_it_is_reported() -> None:
    # The first token of a row has no predecessor, so it cannot be predicted.
    template = "{% for m in messages if m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endfor %}"
    lost: list[Dropped] = []
    chat = Chat(tiny_tokenizer("chatml"), template=template)
    assert [e.loss_mask[0] for e in chat.examples(TWO_TURNS, dropped=lost)] == [False]
    assert [d.reason for d in lost] == ["the chat template writes nothing before assistant message 1"]


def test_a_conversation_that_begins_with_an_answer_learns_the_later_ones() -> None:
    lost: list[Dropped] = []
    greeting = Record("x", (Message("assistant", "welcome"), *TWO_TURNS.messages[:2]))
    rows = Chat(tiny_tokenizer("chatml")).examples(greeting, dropped=lost)
    assert [d.reason for d in lost] == ["there is no message before the answer"]
    assert [e.label_tokens > 0 for e in rows] == [True]
