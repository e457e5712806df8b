"""Frame rows -> records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tuneloop.data.frame import REJECTED, is_classification
from tuneloop.types import Message, Record


def message(turn: Mapping[str, Any]) -> Message:
    """One turn of a frame as a message; a rejected answer becomes the assistant's."""
    role = "assistant" if turn["role"] == REJECTED else turn["role"]
    lists = {key: json.loads(turn[key]) for key in ("tool_calls", "media") if turn.get(key)}
    return Message.from_json({"role": role, "content": turn["content"], "reasoning": turn["reasoning"], **lists})


def messages(turns: Iterable[Mapping[str, Any]]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation, and the rejected answer (empty unless the row is a preference pair)."""
    turns = list(turns)
    said = tuple(message(turn) for turn in turns if turn["role"] != REJECTED)
    return said, tuple(message(turn) for turn in turns if turn["role"] == REJECTED)


def records(rows: pl.DataFrame, system: str | None, labels: Sequence[str]) -> Iterator[Record]:
    """Living rows as records: the system prompt in front, the class as the answer where there is no other."""
    prompt = system.replace("{labels}", ", ".join(labels)) if system else None
    for row, classified in zip(rows.iter_rows(named=True), is_classification(rows), strict=True):
        said, rejected = messages(row["messages"])
        if prompt and not any(m.role == "system" for m in said):
            said = (Message("system", prompt), *said)
        if classified:
            said = (*said, Message("assistant", row["label"]))
        yield Record(
            row["id"],
            said,
            row["label"],
            row["origin"],
            tuple(row["parents"] or ()),
            rejected,
            row["desirable"],
            row["tools"],
            json.loads(row["fields"]) if row["fields"] else {},
        )
