"""A better and a worse answer (DPO, reward models), and answers judged one by one (KTO)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tuneloop.data.columns import CHOSEN, KTO_TAGS, REJECTED, Names
from tuneloop.data.formats.calls import tools_json
from tuneloop.data.formats.conversation import conversation_column, find_messages, list_part
from tuneloop.data.formats.nouns import Detected, Parsed, Row, Turn, Unusable, ends_with_answer, says, unique
from tuneloop.data.formats.tables import find_alpaca, find_pair, question_part
from tuneloop.data.formats.turns import ROLES, Spelling, conversation, spelling
from tuneloop.data.formats.values import first, listed, loaded, verdict
from tuneloop.data.frame import REJECTED as WORSE

_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
"""Turns of a conversation in one text, as Anthropic's hh-rlhf has them."""
JUDGED = ("messages", "sharegpt", "alpaca", "pair")
_FIRST = ("\n\nHuman:", "Human:")
_NO_LISTS = Spelling("role", "content", ROLES)
Tail = Callable[[Any], list[Turn]]


def find_preference(names: Names) -> Detected | None:
    chosen, rejected = names.response or names.find(*CHOSEN), names.find(*REJECTED)
    if rejected is None or chosen == rejected:
        return None
    if chosen and chosen.casefold() in CHOSEN:
        return _openai_pair(names, chosen, rejected) or _two_columns(names, chosen, rejected)
    return _worse_beside(names, rejected)


def _two_columns(names: Names, chosen: str, rejected: str) -> Detected | None:
    found = conversation_column(names)
    asked = list_part(names, found[0]) if found else question_part(names)
    sample = names.list_sample(chosen)
    holds_all = bool(sample) or _is_transcript(names.sample(chosen))
    if asked is None and not holds_all:
        return None
    better, worse = _tail(names, chosen), _tail(names, rejected)

    def parse(row: Row) -> Parsed:
        said = asked.turns(row) if asked else []
        return Parsed(_pair(said, better(row.get(chosen)), worse(row.get(rejected))))

    where = f"{asked.words}, " if asked else ""
    words = f"preference pairs: {where}better answer in {chosen!r}, worse in {rejected!r}"
    return Detected("preference", words, unique(*(asked.used if asked else ()), chosen, rejected), parse)


def _worse_beside(names: Names, rejected: str) -> Detected | None:
    """A whole example, and beside it the worse answer (or the same conversation with the worse answer; ms-swift)."""
    base = find_messages(names) or find_alpaca(names) or find_pair(names)
    if base is None:
        return None
    worse = _tail(names, rejected)

    def parse(row: Row) -> Parsed:
        parsed = base.parse(row)
        if not ends_with_answer(parsed.turns):
            raise Unusable("wrong shape: no answer stands beside the worse one")
        turns = _pair(parsed.turns[:-1], parsed.turns[-1:], worse(row.get(rejected))[-1:])
        return parsed._replace(turns=turns)

    words = f"preference pairs: {base.words}, worse answer in {rejected!r}"
    return Detected("preference", words, unique(*base.used, rejected), parse)


def _openai_pair(names: Names, chosen: str, rejected: str) -> Detected | None:
    """OpenAI's own: ``{"input": {"messages", "tools"}, "preferred_output", "non_preferred_output"}``."""
    column = names.find("input")
    if column is None or not isinstance(names.sample(column), dict):
        return None
    better, worse = _tail(names, chosen), _tail(names, rejected)

    def parse(row: Row) -> Parsed:
        given = loaded(row.get(column), column)
        if not isinstance(given, dict):
            raise Unusable(f"wrong shape: {column!r} is not an object with messages")
        asked = conversation(listed(given.get("messages"), "messages"), _NO_LISTS)
        turns = _pair(asked, better(row.get(chosen)), worse(row.get(rejected)))
        return Parsed(turns, tools=tools_json(given.get("tools")))

    words = f"preference pairs (OpenAI): better answer in {chosen!r}, worse in {rejected!r}"
    return Detected("preference", words, (column, chosen, rejected), parse)


def _tail(names: Names, column: str) -> Tail:
    """How a column's answer becomes turns: text, a transcript, one message, or a list of messages."""
    sample, inside = names.sample(column), names.list_sample(column)
    how = spelling(inside) or spelling([sample]) or _NO_LISTS
    is_json = bool(inside) and isinstance(sample, str)

    def turns(value: Any) -> list[Turn]:
        if isinstance(value, dict):
            return conversation([value], how)
        if is_json or (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
            return conversation(listed(value, column), how)
        said = first(value)
        return _transcript(said) if _is_transcript(said) else [says("assistant", said)]

    return turns


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_FIRST) and "\n\nAssistant:" in value


def _transcript(said: str) -> list[Turn]:
    pieces = _TRANSCRIPT.split(said)
    return [
        says("user" if who == "Human" else "assistant", what.strip())
        for who, what in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def _pair(asked: list[Turn], better: list[Turn], worse: list[Turn]) -> list[Turn]:
    """One conversation with the better answer, and the worse one last. A prompt inside both answers is taken out."""
    size = 0
    while size < min(len(better), len(worse)) - 1 and better[size] == worse[size]:
        size += 1
    shared, good, bad = better[:size], better[size:], worse[size:]
    if len(good) != 1 or len(bad) != 1 or good[0]["role"] != "assistant" or bad[0]["role"] != "assistant":
        raise Unusable("wrong shape: the better and the worse conversation differ before the last answer")
    if good[0]["content"] == bad[0]["content"] and good[0].get("tool_calls") == bad[0].get("tool_calls"):
        raise Unusable("no preference: the better and the worse answer are equal")
    if not ((bad[0]["content"] or "").strip() or bad[0].get("tool_calls")):
        raise Unusable("no preference: the worse answer is empty")
    if any(turn["role"] == "user" for turn in shared):
        told = [turn for turn in asked if turn["role"] == "system"] if shared[0]["role"] != "system" else []
        asked = [*told, *shared]
    else:
        asked = [*(asked[:-1] if asked and asked[-1] == good[0] else asked), *shared]
    if not any(turn["role"] == "user" for turn in asked):
        raise Unusable("wrong shape: nothing is asked before the answers")
    return [*asked, good[0], {**bad[0], "role": WORSE}]


def find_kto(names: Names) -> Detected | None:
    """Any example with an answer, and a column that says whether it is a good one."""
    base = find_messages(names) or find_alpaca(names) or find_pair(names)
    judged = judge(base, names) if base else None
    return judged if judged is not base else None


def judge(base: Detected, names: Names) -> Detected:
    """The same with the verdicts of a column, where there is one."""
    tag = next((c for n in KTO_TAGS if (c := names.find(n)) and _holds_verdicts(names, c)), None)
    if tag is None or names.label == tag or tag in base.used or base.kind not in JUDGED:
        return base

    def parse(row: Row) -> Parsed:
        judged = verdict(row.get(tag))
        if judged is None:
            raise Unusable(f"no verdict: {tag!r} says neither true nor false")
        return base.parse(row)._replace(desirable=judged)

    words = f"{base.words}, answers judged good or bad by {tag!r} (KTO)"
    return replace(base, kind="kto", words=words, used=(*base.used, tag), parse=parse, flat=None)


def _holds_verdicts(names: Names, column: str) -> bool:
    """True and false; beside ``kto_tag`` also the words for it. A ``label`` of 0 and 1 is more often a class."""
    values = [v for r in names.file.head if (v := r.fields.get(column)) is not None]
    words = column.casefold() != "label"
    return bool(values) and all(
        isinstance(v, bool)
        or (isinstance(v, str) and v.strip().lower() in ("true", "false"))
        or (words and verdict(v) is not None)
        for v in values
    )
