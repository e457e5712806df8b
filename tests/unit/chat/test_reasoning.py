from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.chat import opens_reasoning, split_reasoning
from tuneloop.chat.reasoning import answer_text, separate
from tuneloop.types import Message

OPENED = "<｜User｜>q<｜Assistant｜><think>\n"
CLOSED = "<｜User｜>q<｜Assistant｜></think>"
NEUTRAL = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("prompt", "reasoning", "wanted"),
    [
        (OPENED, "why", "why\n</think>\n\nyes"),
        (OPENED, None, "\n</think>\n\nyes"),
        (NEUTRAL, "why", "<think>\nwhy\n</think>\n\nyes"),
        (NEUTRAL, None, "yes"),
        (CLOSED, None, "yes"),
        (CLOSED, "why", "yes"),
    ],
)
def test_the_target_continues_what_the_prompt_began(prompt: str, reasoning: str | None, wanted: str) -> None:
    assert answer_text(Message("assistant", "yes", reasoning), prompt) == wanted


def test_an_empty_block_is_the_published_way_to_switch_thinking_off() -> None:
    # DeepSeek-R1 with an opened block, and Qwen3's enable_thinking=False, both read: <think>\n\n</think>\n\n
    assert "<think>\n" + answer_text(Message("assistant", "yes"), OPENED) == "<think>\n\n</think>\n\nyes"


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda t: t == t.strip() and t and "think>" not in t
)


@given(content=words, reasoning=st.none() | words, prompt=st.sampled_from([OPENED, NEUTRAL]))
def test_split_is_the_inverse_of_compose(content: str, reasoning: str | None, prompt: str) -> None:
    assert split_reasoning(answer_text(Message("assistant", content, reasoning), prompt), prompt) == (
        reasoning,
        content,
    )


def test_reasoning_cut_off_by_the_token_limit_is_not_an_answer() -> None:
    assert split_reasoning("let me see", OPENED) == ("let me see", "")
    assert split_reasoning("<think>\nlet me", NEUTRAL) == ("let me", "")


def test_plain_text_stays_as_it_is() -> None:
    assert split_reasoning(" yes </think>", NEUTRAL) == (None, " yes </think>")


def test_a_block_inside_the_content_becomes_reasoning() -> None:
    assert separate(Message("assistant", "<think>\nwhy\n</think>\n\nyes")) == Message("assistant", "yes", "why")
    unclosed = Message("assistant", "<think> is a tag")
    assert separate(unclosed) == unclosed
    user = Message("user", "<think>a</think>b")
    assert separate(user) == user


def test_opened_is_seen_at_the_end_only() -> None:
    assert opens_reasoning(OPENED)
    assert not opens_reasoning("<think>\nwhy</think>" + NEUTRAL)
