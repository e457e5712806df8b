"""A conversation -> training rows. Nothing is cut: a row that does not fit is dropped with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tuneloop.errors import DataError
from tuneloop.types import Dropped, Example, Record

if TYPE_CHECKING:
    from tuneloop.chat.chat import Chat

STEP = "tokenise"
Ids = tuple[int, ...]


def encode(
    chat: Chat, record: Record, max_length: int | None, turns: Literal["all", "last"]
) -> tuple[list[Example], list[Dropped]]:
    """Rows, and what was lost. Together they account for every assistant message that was to be learnt.

    Consecutive turns share a row when the later prompt begins with the earlier prompt and answer, token for token;
    where the template rewrites history (DeepSeek-R1 strips reasoning) each turn is a row of its own.
    """
    if why := refusal(record):
        return [], [_lost(record, why)]
    at = [i for i, m in enumerate(record.messages) if m.role == "assistant"]
    if not at:
        return [], [_lost(record, "no assistant message to learn from")]
    rows: list[tuple[int, Ids, tuple[bool, ...]]] = []
    lost: list[Dropped] = []
    for turn, i in list(enumerate(at, 1))[-1 if turns == "last" else 0 :]:
        try:
            prompt, answer = _turn(chat, record, i, turn, max_length)
        except DataError as error:
            lost.append(_lost(record, error.what))
            continue
        first, mask = turn, (False,) * len(prompt)
        if rows and prompt[: len(rows[-1][1])] == rows[-1][1]:
            first, _, seen = rows.pop()
            mask = seen + mask[len(seen) :]
        rows.append((first, prompt + answer, mask + (True,) * len(answer)))
    if len(rows) == 1:
        return [Example(record.id, *rows[0][1:])], lost
    return [Example(f"{record.id}:{first}", ids, mask) for first, ids, mask in rows], lost


def refusal(record: Record) -> str | None:
    """Why a language model can neither learn from a record nor be judged by it; None when it can."""
    if kinds := {medium.kind for message in record.messages for medium in message.media}:
        what = "images" if kinds == {"image"} else "sounds" if kinds == {"audio"} else "images and sounds"
        return f"media: {what} need a multimodal model"
    if record.desirable is False:
        return "undesirable: the answer is marked as one not to give"
    return None


def _turn(chat: Chat, record: Record, i: int, turn: int, max_length: int | None) -> tuple[Ids, Ids]:
    """Prompt and answer of one assistant message, or a DataError that says why it cannot be learnt."""
    message, history = record.messages[i], record.messages[:i]
    if not message.content.strip() and not (message.reasoning or "").strip() and not message.tool_calls:
        raise DataError(f"assistant message {turn} is empty")
    prompt = chat.prompt_ids(history, record.tools)
    answer = chat.answer_ids(message, chat.render(history, generation=True, tools=record.tools))
    if not prompt:  # the first token of a row has no predecessor to be predicted from
        raise DataError(f"the chat template writes nothing before assistant message {turn}")
    if max_length is not None and len(prompt) + len(answer) > max_length:
        raise DataError(
            f"assistant message {turn} needs {len(prompt) + len(answer)} tokens, max_length is {max_length}"
        )
    return prompt, answer


def _lost(record: Record, reason: str) -> Dropped:
    raw = " | ".join(f"{m.role}: {m.content}" for m in record.messages)
    return Dropped(record.id, record.origin, STEP, reason, raw)
