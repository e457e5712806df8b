"""Records -> examples, with every row accounted for.

A row is a record. It is trained, as one example or as several parts, or it is left out with a reason: rows in =
rows trained + rows left out. A part that is lost from a row of which other parts are trained is counted separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tuneloop.chat import Chat
from tuneloop.data import read_records
from tuneloop.errors import DataError
from tuneloop.progress import log, track
from tuneloop.train.config import TrainConfig
from tuneloop.train.texts import cut, text_examples
from tuneloop.train.weighing import Weighing
from tuneloop.types import Dropped, Example, Message, Record, Split

Encode = Callable[[Record, list[Dropped]], list[Example]]


WEIGHTLESS = "its weight is 0"


@dataclass(slots=True)
class Rows:
    """The examples of a split. ``rows_in`` records came, ``rows`` of them are trained, ``left_out`` counts the others by
    reason; ``parts_left_out`` counts what is missing from rows that are trained. ``lengths_tokens`` are those of
    every row that could be encoded, before anything was cut or left out."""

    examples: list[Example] = field(default_factory=list)
    rows_in: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    parts_left_out: Counter[str] = field(default_factory=Counter)
    too_long: list[str] = field(default_factory=list)
    lengths_tokens: list[int] = field(default_factory=list)

    def require(self, folder: Path) -> None:
        """Refuse to train on nothing.

        Raises:
            DataError: There is no example; the reasons are named.
        """
        if not self.examples:
            reasons = "; ".join(f"{n} rows: {why}" for why, n in self.left_out.items()) or "the training split is empty"
            ways = ["raise train.max_length_tokens"] if self.too_long else []
            ways += ["raise train.source_weights or the weights in train.weight_column"] * (WEIGHTLESS in self.left_out)
            hint = ", or ".join([*ways, "see report.html there"])
            raise DataError(f"nothing to train on ({reasons})", where=str(folder), hint=hint)


def tokenise(chat: Chat, records_folder: Path, split: Split, config: TrainConfig) -> Rows:
    """The examples of a split, and what became of every record.

    Args:
        chat: Tokenizer and template.
        records_folder: The folder of the data stage.
        split: Which split.
        config: Objective, limit of length, weights.

    Raises:
        DataError: Rows are too long and ``too_long`` is ``fail``; a weight is no number.
    """
    out, weighing = Rows(), Weighing(config)
    for record in track(read_records(records_folder, split), f"tokenising {split}", unit="rows"):
        out.rows_in += 1
        weight = weighing.of(record)
        made, lost = ([], [WEIGHTLESS]) if weight == 0 else _examples(chat, record, config, out)
        silent = sum(not e.label_tokens for e in made)
        lost += ["no token to learn"] * silent
        if silent < len(made):
            out.rows += 1
            out.examples += [replace(e, weight=e.weight * weight) for e in made if e.label_tokens]
            out.parts_left_out.update(lost)
        else:
            out.left_out[lost[0]] += 1
    weighing.say(split)
    _say(out, split, config)
    return out


def _examples(chat: Chat, record: Record, config: TrainConfig, out: Rows) -> tuple[list[Example], list[str]]:
    """The examples of one record within the limit, and the reason of each part that is lost."""
    lost: list[Dropped] = []
    limit, texts = config.max_length_tokens, config.objective == "pretrain"

    def encode(one: Record, dropped: list[Dropped]) -> list[Example]:
        return text_examples(chat, one, dropped) if texts else chat.examples(one, dropped=dropped)

    made = encode(record, lost)
    lengths = [len(e.input_ids) for e in made]
    out.lengths_tokens += lengths
    if all(n <= limit for n in lengths):
        return made, [row.reason for row in lost]
    out.too_long.append(record.id)
    if config.handles_too_long == "split":
        if texts:
            return [part for e in made for part in cut(e, limit)], [row.reason for row in lost]
        return split_turns(record, limit, encode)
    short = [e for e in made if len(e.input_ids) <= limit]
    reasons = [_too_long(limit)] * (len(made) - len(short))
    return short, reasons + [row.reason for row in lost]


def split_turns(record: Record, limit: int, encode: Encode) -> tuple[list[Example], list[str]]:
    """A conversation as several of at most ``limit`` tokens each, cut between exchanges.

    An exchange begins with a user's message that follows an answer and ends with the last answer before the next one,
    so that a function's call and its result stay together. Every part begins with the system prompt and ends after an
    answer; it takes as many exchanges as fit. An exchange that alone is too long is lost, and says so.
    """
    system, exchanges = _exchanges(record.messages)
    examples: list[Example] = []
    reasons: list[str] = []
    at = number = 0
    while at < len(exchanges):
        number += 1
        best: tuple[list[Example], list[Dropped]] | None = None
        end = at
        while end < len(exchanges):
            said = (*system, *(m for exchange in exchanges[at : end + 1] for m in exchange))
            lost: list[Dropped] = []
            made = encode(replace(record, id=f"{record.id}#{number}", messages=said), lost)
            if any(len(e.input_ids) > limit for e in made):
                break
            best, end = (made, lost), end + 1
        if best is None:
            reasons.append(_too_long(limit))
            at += 1
        else:
            examples += best[0]
            reasons += [row.reason for row in best[1]]
            at = end
    return examples, reasons


def _exchanges(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[list[Message]]]:
    """System prompt and exchanges; messages after the last answer are nobody's answer and belong to none."""
    first = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
    exchanges: list[list[Message]] = []
    for i in range(first, last + 1):
        if not exchanges or (messages[i].role == "user" and messages[i - 1].role == "assistant"):
            exchanges.append([])
        exchanges[-1].append(messages[i])
    return tuple(messages[:first]), exchanges


def _too_long(limit: int) -> str:
    return f"longer than {limit} tokens"


def _say(rows: Rows, split: Split, config: TrainConfig) -> None:
    """What was left out and cut, with advice where it is much.

    Raises:
        DataError: ``too_long`` is ``fail`` and rows are.
    """
    long, limit, how = len(rows.too_long), config.max_length_tokens, config.handles_too_long
    if long and how == "fail":
        named = ", ".join(rows.too_long[:8]) + (f" and {long - 8:,} more" if long > 8 else "")
        raise DataError(
            f"{long:,} rows of {split} are longer than {limit} tokens (the longest has {max(rows.lengths_tokens):,}): {named}",
            where="train.max_length_tokens",
            hint="raise it, or choose train.too_long=drop or split; tuneloop trace " + rows.too_long[0],
        )
    for why, n in rows.left_out.items():
        log(f"  {split}: {n:,} rows left out: {why}")
    for why, n in rows.parts_left_out.items():
        log(f"  {split}: {n:,} parts left out of rows that are trained: {why}")
    if long and how == "split":
        log(f"  {split}: {long:,} rows are longer than {limit} tokens and were split")
    silent = rows.left_out["no token to learn"] + rows.parts_left_out["no token to learn"]
    if silent:
        log(f"warning: {silent:,} examples of {split} have no token to learn and are left out")
    if len(rows.examples) != rows.rows:
        log(f"  {split}: {rows.rows:,} of {rows.rows_in:,} rows are trained, as {len(rows.examples):,} examples")
