"""Messages -> token ids + loss mask, and back. One template object for training, evaluation and serving.

chat = Chat(tokenizer)
chat.prompt_ids(messages)            what an engine is given, and what stands before the first trained token
chat.examples(record)                the training rows of a conversation
chat.stream()                        token ids -> text, never half a character
refusal(record)                      why no language model can learn from a record or be judged by it
"""

from __future__ import annotations

from tuneloop.chat.calls import CallFormat
from tuneloop.chat.chat import Chat
from tuneloop.chat.examples import refusal
from tuneloop.chat.reasoning import opens_reasoning, split_reasoning
from tuneloop.chat.stream import Detokenizer, StopStrings, Vocabulary
from tuneloop.chat.templates import BUILT_IN

__all__ = [
    "BUILT_IN",
    "CallFormat",
    "Chat",
    "Detokenizer",
    "StopStrings",
    "Vocabulary",
    "opens_reasoning",
    "refusal",
    "split_reasoning",
]
