from __future__ import annotations

from tests.tiny import tiny_tokenizer
from tuneloop.chat import Chat
from tuneloop.serve.answer import Answer
from tuneloop.types import TokenEvent


def events(chat: Chat, text: str, finish: str = "stop") -> list[TokenEvent]:
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [TokenEvent("r", (i,)) for i in ids] + [TokenEvent("r", finish=finish)]  # type: ignore[arg-type]


def test_the_parts_join_to_the_text_and_characters_are_never_cut() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    answer = Answer(chat, "")
    shown = [text for e in events(chat, "卡丢了 😀 ok") for _, text in answer.add(e)]
    assert "".join(shown) == "卡丢了 😀 ok" == answer.content
    assert not any("\ufffd" in text for text in shown)
    assert (answer.finish, answer.reasoning) == ("stop", None)


def test_a_stop_string_finishes_before_the_engine_does() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    answer = Answer(chat, "", ["lost my"])
    for event in events(chat, "I lost my card", "length"):
        answer.add(event)
        if answer.finish:
            break
    assert (answer.content, answer.finish) == ("I ", "stop")


def test_reasoning_is_apart_from_the_answer() -> None:
    chat = Chat(tiny_tokenizer("r1-distill"))
    answer = Answer(chat, "<｜Assistant｜><think>\n")
    for event in events(chat, "let me see\n</think>\n\nforty two", "length"):
        answer.add(event)
    assert (answer.reasoning, answer.content, answer.finish) == ("let me see", "forty two", "length")


def test_an_error_keeps_what_came_before_it() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    answer = Answer(chat, "")
    for event in events(chat, "half an", "error"):
        answer.add(event)
    assert (answer.content, answer.finish) == ("half an", "error")
