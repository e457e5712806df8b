from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.chat import split_reasoning
from tuneloop.serve.reasoning import ReasoningStream

PROMPTS = ["<|im_start|>assistant\n", "<｜Assistant｜><think>\n"]
PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", "\n", "\n\n", " ", "a", "b c", "</thi", "<th"])
)


def streamed(prompt: str, pieces: list[str]) -> tuple[str | None, str]:
    stream = ReasoningStream(prompt)
    parts = [part for piece in pieces for part in stream.feed(piece)] + stream.finish()
    reasoning = "".join(text for kind, text in parts if kind == "reasoning")
    return reasoning or None, "".join(text for kind, text in parts if kind == "content")


@given(st.sampled_from(PROMPTS), PIECES)
def test_streamed_is_split_like_the_whole_text(prompt: str, pieces: list[str]) -> None:
    assert streamed(prompt, pieces) == split_reasoning("".join(pieces), prompt)


@pytest.mark.parametrize(
    ("prompt", "text", "reasoning", "content"),
    [
        (PROMPTS[0], "Hello", None, "Hello"),
        (PROMPTS[0], "<think>\nhm\n</think>\n\nYes", "hm", "Yes"),
        (PROMPTS[1], "hm\n</think>\n\nYes", "hm", "Yes"),
        (PROMPTS[1], "never closed", "never closed", ""),
        (PROMPTS[0], "a <think> later", None, "a <think> later"),
    ],
)
def test_each_convention(prompt: str, text: str, reasoning: str | None, content: str) -> None:
    assert streamed(prompt, list(text)) == (reasoning, content)


def test_nothing_waits_longer_than_it_must() -> None:
    stream = ReasoningStream(PROMPTS[1])
    assert stream.feed("I think") == [("reasoning", "I think")]
    assert stream.feed(" so</thi") == [("reasoning", " so")]
    assert stream.feed("nk>\n\nYes") == [("content", "Yes")]
