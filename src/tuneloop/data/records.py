"""Frame rows -> records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tuneloop.data.frame import REJECTED, is_classification, turns
from tuneloop.types import Message, Record


def message(turn: Mapping[str, Any]) -> Message:
    """One turn of a frame as a message; a rejected answer becomes the assistant's."""
    role = "assistant" if turn["role"] == REJECTED else turn["role"]
    lists = {key: json.loads(turn[key]) for key in ("tool_calls", "media") if turn.get(key)}
    return Message.from_json({"role": role, "content": turn["content"], "reasoning": turn["reasoning"], **lists})


def messages(said: Iterable[Mapping[str, Any]]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation, and the rejected answer (empty unless the row is a preference pair)."""
    said = list(said)
    kept = tuple(message(turn) for turn in said if turn["role"] != REJECTED)
    return kept, tuple(message(turn) for turn in said if turn["role"] == REJECTED)


def json_lines(rows: pl.DataFrame, system: str | None, labels: Sequence[str]) -> str:
    """``records`` as JSON lines. Plain conversations, nearly all there is, are written without making objects of them."""
    plain = rows.select(
        pl.col("messages")
        .list.eval(
            (pl.element().struct.field("role") != REJECTED)
            & pl.element().struct.field("reasoning").is_null()
            & pl.element().struct.field("tool_calls").is_null()
            & pl.element().struct.field("media").is_null()
        )
        .list.all()
        & pl.col("desirable").is_null()
        & pl.col("tools").is_null()
        & pl.col("fields").is_null()
        & (pl.col("parents").list.len().fill_null(0) == 0)
    ).to_series()
    quick = rows.filter(plain)
    talk = turns(quick)
    said = _said(quick.height, *(talk[name].to_list() for name in ("row", "role", "content")))
    prompt = _system_prompt(system, labels)
    start = _turn_text("system", prompt) if prompt else ""
    columns = (quick[name].to_list() for name in ("id", "label", "origin"))
    fast = []
    for messages_, answered, row_id, label, origin in zip(said, is_classification(quick), *columns, strict=True):
        if start and not any(text.startswith('{"role": "system"') for text in messages_):
            messages_.insert(0, start)
        if answered:
            messages_.append(_turn_text("assistant", label))
        fast.append(
            f'{{"id": {_quote(row_id)}, "messages": [{", ".join(messages_)}], '
            f'"label": {"null" if label is None else _quote(label)}, "origin": {_quote(origin)}, "parents": []}}\n'
        )
    slow = (json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records(rows.filter(~plain), system, labels))
    quickly = iter(fast)
    return "".join(next(quickly if is_plain else slow) for is_plain in plain)


def _said(height: int, rows: Sequence[int], roles: Sequence[str], contents: Sequence[str]) -> list[list[str]]:
    """The turns of each row as JSON."""
    out: list[list[str]] = [[] for _ in range(height)]
    for row, role, content in zip(rows, roles, contents, strict=True):
        out[row].append(_turn_text(role, content))
    return out


def _turn_text(role: str, content: str) -> str:
    return f'{{"role": "{role}", "content": {_quote(content)}}}'


_quote = json.encoder.encode_basestring
"""A string as ``json.dumps(..., ensure_ascii=False)`` writes it."""


def _system_prompt(system: str | None, labels: Sequence[str]) -> str | None:
    return system.replace("{labels}", ", ".join(labels)) if system else None


def records(rows: pl.DataFrame, system: str | None, labels: Sequence[str]) -> Iterator[Record]:
    """Living rows as records: the system prompt in front, the class as the answer where there is no other."""
    prompt = _system_prompt(system, labels)
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
