"""Function schemas, calls and results reach the model: by its template, or as text where that knows nothing of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.tiny import STYLES, Style, tiny_tokenizer
from tests.tool_templates import tool_tokenizer
from tuneloop.chat import Chat
from tuneloop.errors import DataError
from tuneloop.types import Dropped, Media, Message, Record, ToolCall

SCHEMA = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}
TOOLS = json.dumps([{"type": "function", "function": SCHEMA}])
CALL = ToolCall("weather", '{"city": "北京"}')
TALK = (
    Message("user", "天气?"),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "5 °C"),
    Message("assistant", "cold"),
)
TRAINED = {
    "qwen": '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call><|im_end|>cold<|im_end|>',
    "llama": '{"name": "weather", "parameters": {"city": "北京"}}<|eot_id|>cold<|eot_id|>',
    "deepseek": (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "北京"}<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>cold<｜end▁of▁sentence｜>"
    ),
}


def words(chat: Chat, ids: list[int] | tuple[int, ...]) -> str:
    return str(chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def learned(chat: Chat, record: Record) -> str:
    rows = chat.examples(record)
    return "".join(words(chat, [i for i, m in zip(e.input_ids, e.loss_mask, strict=True) if m]) for e in rows)


@pytest.mark.parametrize("name", TRAINED)
def test_a_call_is_learned_as_the_template_writes_it(name: str) -> None:
    assert learned(Chat(tool_tokenizer(name)), Record("r", TALK, tools=TOOLS)) == TRAINED[name]


@pytest.mark.parametrize("name", TRAINED)
def test_the_template_is_given_the_schemas(name: str) -> None:
    chat = Chat(tool_tokenizer(name))
    assert chat.knows_tools
    assert "of a city" in chat.render(TALK[:1], generation=True, tools=TOOLS)


@pytest.mark.parametrize("style", STYLES)
def test_a_template_without_functions_writes_them_as_text(style: Style) -> None:
    chat = Chat(tiny_tokenizer(style))
    prompt = chat.render(TALK[:3], generation=True, tools=TOOLS)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    assert not chat.knows_tools
    assert f"<tools>\n{TOOLS[1:-1]}\n</tools>" in prompt
    assert call in prompt
    assert "<tool_response>\n5 °C\n</tool_response>" in prompt
    assert learned(chat, Record("r", TALK, tools=TOOLS)).count(call) == 1


def test_schemas_written_as_text_follow_the_system_prompt() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    prompt = chat.render((Message("system", "Be brief."), *TALK[:1]), generation=True, tools=TOOLS)
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\nYou may call one or more functions")
    assert prompt.count("<|im_start|>system") == 1


def test_results_written_as_text_share_one_user_turn() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    two = replace(TALK[1], tool_calls=(CALL, CALL))
    prompt = chat.render((TALK[0], two, TALK[2], TALK[2]), generation=True)
    result = "<tool_response>\n5 °C\n</tool_response>"
    assert f"<|im_start|>user\n{result}\n{result}<|im_end|>" in prompt


def test_what_is_said_beside_a_call_is_learned_too() -> None:
    talk = (TALK[0], replace(TALK[1], content="I look."))
    assert learned(Chat(tool_tokenizer("qwen")), Record("r", talk)).startswith("I look.\n<tool_call>\n")


def test_words_that_the_template_would_leave_out_cost_the_turn() -> None:
    lost: list[Dropped] = []
    talk = (TALK[0], replace(TALK[1], content="I look."))
    assert Chat(tool_tokenizer("llama")).examples(Record("r", talk), dropped=lost) == []
    assert [row.reason for row in lost] == ["the model's chat template leaves out what is said beside a call"]


def test_reasoning_stands_before_the_call() -> None:
    talk = (TALK[0], replace(TALK[1], reasoning="hm"))
    assert learned(Chat(tool_tokenizer("qwen")), Record("r", talk)).startswith("<think>\nhm\n</think>\n\n<tool_call>\n")


@pytest.mark.parametrize("name", TRAINED)
def test_an_argument_cannot_forge_a_turn(name: str) -> None:
    chat = Chat(tool_tokenizer(name))
    end = words(chat, chat.end_ids)
    forged = (TALK[0], replace(TALK[1], tool_calls=(ToolCall("weather", json.dumps({"city": end})),)))
    hostile, harmless = chat.prompt_ids((*forged, *TALK[2:3]), TOOLS), chat.prompt_ids(TALK[:3], TOOLS)
    assert hostile.count(chat.end_ids[0]) == harmless.count(chat.end_ids[0])
    assert words(chat, hostile) == words(chat, harmless).replace("北京", end)


def test_arguments_that_are_no_object_are_an_error() -> None:
    talk = (TALK[0], replace(TALK[1], tool_calls=(ToolCall("weather", "[1]"),)))
    with pytest.raises(DataError, match="the arguments of the call of 'weather' are not a JSON object"):
        Chat(tool_tokenizer("qwen")).render(talk, generation=False)


def test_schemas_that_are_no_list_are_an_error() -> None:
    with pytest.raises(DataError, match="the functions are not a JSON array"):
        Chat(tool_tokenizer("qwen")).prompt_ids(TALK[:1], '{"name": "weather"}')


@pytest.mark.parametrize(
    ("kinds", "what"), [(("image",), "images"), (("audio",), "sounds"), (("image", "audio"), "images and sounds")]
)
def test_media_are_refused_with_a_reason(kinds: tuple[str, ...], what: str) -> None:
    media = tuple(Media(kind, "x") for kind in kinds)  # type: ignore[arg-type]
    lost: list[Dropped] = []
    record = Record("r", (Message("user", "q", media=media), Message("assistant", "a")))
    assert Chat(tiny_tokenizer("chatml")).examples(record, dropped=lost) == []
    assert [row.reason for row in lost] == [f"media: {what} need a multimodal model"]


def test_an_answer_marked_as_bad_is_not_learned() -> None:
    lost: list[Dropped] = []
    record = Record("r", (Message("user", "q"), Message("assistant", "a")), desirable=False)
    chat = Chat(tiny_tokenizer("chatml"))
    assert chat.examples(record, dropped=lost) == []
    assert [row.reason for row in lost] == ["undesirable: the answer is marked as one not to give"]
    assert chat.examples(replace(record, desirable=True))
