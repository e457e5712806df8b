from __future__ import annotations

import pytest

from tests.tiny import TEMPLATES, tiny_tokenizer
from tuneloop.chat import BUILT_IN, Chat
from tuneloop.errors import ModelError
from tuneloop.types import Message

QUESTION = [Message("user", "hi"), Message("assistant", "hello"), Message("user", "bye")]


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template") as caught:
        Chat(tokenizer)
    assert "model.chat_template=plain" in (caught.value.hint or "")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match="no built-in chat template 'plane'") as caught:
        Chat(tiny_tokenizer("chatml"), template="plane")
    assert "chatml, plain" in (caught.value.hint or "")


def test_plain_needs_no_special_token_but_the_end_of_text() -> None:
    chat = Chat(tiny_tokenizer("chatml"), template="plain")
    shown = chat.render(QUESTION, generation=True)
    assert shown == "### User\nhi\n\n### Assistant\nhello<|im_end|>\n\n### User\nbye\n\n### Assistant\n"
    assert chat.end_ids == chat.stop_ids == (chat.tokenizer.eos_token_id,)


def test_plain_writes_one_beginning_of_text() -> None:
    chat = Chat(tiny_tokenizer("llama3"), template="plain")
    assert chat.prompt_ids(QUESTION).count(chat.tokenizer.bos_token_id) == 1


def test_an_explicit_template_is_put_on_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer("chatml")
    assert tokenizer.chat_template == TEMPLATES["chatml"]
    Chat(tokenizer, template="chatml")
    assert tokenizer.chat_template == BUILT_IN["chatml"]


def test_of_several_named_templates_the_default_is_taken() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = {"default": BUILT_IN["chatml"], "tool_use": "{{ 'x' }}"}
    assert Chat(tokenizer).template == BUILT_IN["chatml"]
