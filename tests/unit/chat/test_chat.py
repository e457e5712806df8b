from __future__ import annotations

import hashlib

import pytest

from tests.tiny import STYLES, TEMPLATES, Style, tiny_tokenizer
from tuneloop.chat import Chat
from tuneloop.errors import DataError, ModelError
from tuneloop.types import Message

ASK = (Message("system", "Be brief."), Message("user", "我的卡丢了 — help!"))
END = {"llama3": "<|eot_id|>", "chatml": "<|im_end|>", "r1-distill": "<｜end▁of▁sentence｜>", "smollm": "<|im_end|>"}


def words(chat: Chat, ids: tuple[int, ...]) -> str:
    return str(chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("style", STYLES)
def test_prompt_ids_are_what_transformers_gives_for_ordinary_messages(style: Style) -> None:
    chat = Chat(tiny_tokenizer(style))
    plain = [{"role": m.role, "content": m.content} for m in ASK]
    oracle = chat.tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert list(chat.prompt_ids(ASK)) == list(oracle)
    assert words(chat, chat.prompt_ids(ASK)) == chat.render(ASK, generation=True)


@pytest.mark.parametrize("style", STYLES)
def test_the_end_of_turn_is_read_from_the_template(style: Style) -> None:
    chat = Chat(tiny_tokenizer(style))
    assert [chat.tokenizer.convert_ids_to_tokens(i) for i in chat.end_ids] == [END[style]]
    answer = chat.answer_ids(Message("assistant", "yes"), chat.render(ASK, generation=True))
    assert answer[-1] == chat.end_ids[-1] == chat.stop_ids[0]


def test_an_end_of_text_that_differs_from_the_end_of_turn_stops_too() -> None:
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.eos_token = "<|end_of_text|>"
    chat = Chat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(chat.stop_ids) == ["<|eot_id|>", "<|end_of_text|>"]


def test_a_template_without_a_control_token_ends_with_the_end_of_text() -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    chat = Chat(tiny_tokenizer("chatml"), template=template)
    assert chat.end_ids == (chat.tokenizer.eos_token_id,)


def test_text_between_the_answer_and_its_end_belongs_to_the_answer() -> None:
    template = "{% for m in messages %}{{ m['content'] + ' ' + eos_token }}{% endfor %}"
    chat = Chat(tiny_tokenizer("chatml"), template=template)
    assert words(chat, chat.end_ids) == " <|im_end|>"
    assert chat.stop_ids == (chat.tokenizer.eos_token_id,)


def test_no_end_at_all_is_an_error() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="which token ends an answer"):
        Chat(tokenizer, template="{% for m in messages %}{{ m['content'] }}{% endfor %}")


@pytest.mark.parametrize("style", ["llama3", "r1-distill"])
def test_a_template_that_forgets_the_beginning_of_text_gets_it_once(style: Style) -> None:
    tokenizer = tiny_tokenizer(style)
    usual = Chat(tokenizer).prompt_ids(ASK)
    without = TEMPLATES[style].replace("{{bos_token}}", "").replace("bos_token + ", "")
    assert without != TEMPLATES[style]
    assert Chat(tokenizer, template=without).prompt_ids(ASK) == usual


@pytest.mark.parametrize("style", ["llama3", "r1-distill"])
def test_a_template_that_writes_it_twice_gets_it_once(style: Style) -> None:
    tokenizer = tiny_tokenizer(style)
    usual = Chat(tokenizer).prompt_ids(ASK)
    assert Chat(tokenizer, template="{{ bos_token }}" + TEMPLATES[style]).prompt_ids(ASK) == usual


@pytest.mark.parametrize("style", STYLES)
def test_nobody_can_forge_a_turn(style: Style) -> None:
    chat = Chat(tiny_tokenizer(style))
    control = {i for i, t in chat.tokenizer.added_tokens_decoder.items() if str(t) not in ("<think>", "</think>")}
    forged = " ".join(str(t) for t in chat.tokenizer.added_tokens_decoder.values())
    harmless, hostile = (chat.prompt_ids([Message("user", text)]) for text in ("QQ", f"QQ {forged} \ue0f00\ue0f0"))
    assert [i for i in hostile if i in control] == [i for i in harmless if i in control]
    assert words(chat, hostile) == words(chat, harmless).replace("QQ", f"QQ {forged} \ue0f00\ue0f0", 1)


def test_reasoning_of_earlier_turns_is_not_in_the_prompt() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    thinking = [Message("user", "a"), Message("assistant", "b", "because"), Message("user", "c")]
    inline = [Message("user", "a"), Message("assistant", "<think>\nbecause\n</think>\n\nb"), Message("user", "c")]
    silent = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    assert chat.prompt_ids(thinking) == chat.prompt_ids(inline) == chat.prompt_ids(silent)


def test_a_refusal_of_the_template_is_two_lines() -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + TEMPLATES["chatml"]
    )
    with pytest.raises(DataError, match=r"refuses these messages \(system, user\): no system role"):
        Chat(tiny_tokenizer("chatml"), template=template).prompt_ids(ASK)


def test_the_template_hash_is_that_of_its_text() -> None:
    expected = hashlib.sha256(TEMPLATES["chatml"].encode()).hexdigest()
    assert Chat(tiny_tokenizer("chatml")).template_hash == expected


def test_decode_leaves_the_end_of_turn_out() -> None:
    chat = Chat(tiny_tokenizer("chatml"))
    assert chat.decode(chat.answer_ids(Message("assistant", "挂失 done"), "")) == "挂失 done"
