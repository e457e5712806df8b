"""What a model thinks before it answers, between ``<think>`` and ``</think>``.

Three conventions exist, told apart by how the prompt ends:

* the prompt opens the block (DeepSeek-R1 and its distills end it with ``<think>\\n``): the model goes on inside it;
* the prompt closes it (DeepSeek-V3.1 without thinking ends it with ``</think>``): the model answers at once;
* neither: a model that thinks opens the block itself.

An empty block is written ``<think>\\n\\n</think>\\n\\n``, as DeepSeek and Qwen write it to switch thinking off.
"""

from __future__ import annotations

from tuneloop.types import Message

OPEN, CLOSE = "<think>", "</think>"


def opens_reasoning(prompt: str) -> bool:
    """Whether the model, given this prompt, continues inside a reasoning block."""
    return prompt.rstrip().endswith(OPEN)


def separate(message: Message) -> Message:
    """The message with a reasoning block that stands inside its content moved to ``reasoning``."""
    if message.role != "assistant" or message.reasoning is not None or not message.content.lstrip().startswith(OPEN):
        return message
    reasoning, closed, content = message.content.lstrip().removeprefix(OPEN).partition(CLOSE)
    return Message("assistant", content.lstrip("\n"), reasoning.strip("\n")) if closed else message


def answer_text(message: Message, prompt: str) -> str:
    """What the model must write after ``prompt``, without the end-of-turn token.

    Reasoning cannot be written where the prompt has already closed the block; it is left out there.
    """
    message = separate(message)
    if opens_reasoning(prompt):
        return f"{message.reasoning or ''}\n{CLOSE}\n\n{message.content}"
    if message.reasoning and not prompt.rstrip().endswith(CLOSE):
        return f"{OPEN}\n{message.reasoning}\n{CLOSE}\n\n{message.content}"
    return message.content


def split_reasoning(text: str, prompt: str) -> tuple[str | None, str]:
    """Split generated text into reasoning (None when there is none) and answer: the inverse of ``answer_text``.

    A block that was never closed (the token limit came first) is all reasoning.
    """
    opened = text.lstrip().startswith(OPEN)
    if not opened and not opens_reasoning(prompt):
        return None, text
    inside, _, content = (text.lstrip().removeprefix(OPEN) if opened else text).partition(CLOSE)
    return inside.strip("\n") or None, content.lstrip("\n")
