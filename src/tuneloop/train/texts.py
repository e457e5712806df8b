"""A record -> one run of tokens that is learned as a whole, and runs cut to length: the rows of ``objective: pretrain``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tuneloop.chat import Chat
from tuneloop.data import read_records
from tuneloop.progress import log
from tuneloop.train.config import TrainConfig
from tuneloop.types import Dropped, Example, Record, Split

_SPLITS: tuple[Split, ...] = ("train", "validation")


def is_text(record: Record) -> bool:
    """Whether a record is plain text: nothing but one assistant message, as the data room writes documents."""
    return len(record.messages) == 1 and record.messages[0].role == "assistant"


def open_chat(tokenizer: Any, template: str | None, records_folder: Path, config: TrainConfig) -> Chat:
    """The template of a training. Texts need none: with ``objective: pretrain`` a tokenizer without one stays without.

    Raises:
        ModelError: There is none, and there are conversations to write.
    """
    needless = config.objective == "pretrain" and template is None and not tokenizer.chat_template
    if not needless or not all(is_text(r) for split in _SPLITS for r in read_records(records_folder, split)):
        return Chat(tokenizer, template=template)
    log("  the tokenizer has no chat template: texts need none, and the trained model will have none either")
    chat = Chat(tokenizer, template="plain")  # it asks for one; nothing here is written with it
    tokenizer.chat_template = None
    return chat


def text_examples(chat: Chat, record: Record, dropped: list[Dropped]) -> list[Example]:
    """One token run of a record, every token of it a label except the first, which has no predecessor.

    * Plain text: the beginning-of-text token where the tokenizer puts one in front (once), the text, the end-of-text
      token where there is one.
    * A conversation: exactly what is served before the last answer, and that answer with its end; what stands after
      it is nobody's answer and is left out. Reasoning of earlier turns is not part of a prompt (see ``Chat``).

    Args:
        chat: Tokenizer and template.
        record: A document or a conversation.
        dropped: Receives the record with its reason when there is nothing to learn.
    """
    if not is_text(record):
        return [_all_learned(e) for e in chat.examples(record, turns="last", dropped=dropped)]
    message = record.messages[0]
    if message.media or not message.content.strip():
        reason = (
            "media: a text with images or sounds needs a multimodal model" if message.media else "the text is empty"
        )
        dropped.append(Dropped(record.id, record.origin, "tokenise", reason, message.content))
        return []
    ids = chat.text_ids(message.content)
    return [_all_learned(Example(record.id, ids, (False,) * len(ids)))]


def _all_learned(example: Example) -> Example:
    return replace(example, loss_mask=(False, *(True,) * (len(example.input_ids) - 1)))


def cut(example: Example, limit: int) -> list[Example]:
    """A run as consecutive parts of at most ``limit`` (at least 2) tokens.

    Joined, the parts are the run: no token is lost, none is repeated. Each boundary costs one prediction, because the
    first token of a part has nothing before it. The parts are of nearly equal length: a last part of one token would
    be the end-of-text token alone, and nobody would learn to stop.
    """
    n = len(example.input_ids)
    count = -(-n // limit)
    if count <= 1:
        return [example]
    ends = [n * (i + 1) // count for i in range(count)]
    return [
        _all_learned(replace(example, id=f"{example.id}#{number}", input_ids=example.input_ids[start:end]))
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), 1)
    ]
