"""What the rows of a file mean: detected from the columns, overridable, and said out loud."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.data.columns import LABELS, PAIR_LABELS, PAIRS, PLAIN, TEXTS, TITLES, Names
from tuneloop.data.config import DataConfig
from tuneloop.data.readers.encoding import replace_surrogates
from tuneloop.data.rows import RawFile, RawRow
from tuneloop.errors import DataError

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "usr": "user",
    "customer": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "sys": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "tool_response": "tool",
}

Turn = dict[str, str | None]


class Unusable(ValueError):
    """A row that its format does not allow; the message is ``reason: detail`` and goes to the ledger."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """One row, understood. A classification row has no assistant turn: its label is the answer."""

    turns: list[Turn]
    label: str | None = None
    desirable: bool | None = None
    tools: str | None = None
    fields: str | None = None


@dataclass(frozen=True, slots=True)
class Detected:
    """A format with the columns it uses. ``words`` is what the person watching reads."""

    kind: str
    words: str
    used: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Parsed]


def understand(row: RawRow, detected: Detected) -> Parsed:
    """Turn one readable row into a conversation.

    Raises:
        Unusable: It has the wrong shape.
    """
    return detected.parse(row.fields)


def detect(file: RawFile, config: DataConfig) -> Detected:
    """Find out what the rows of a file mean.

    Raises:
        DataError: A named column does not exist, or no format fits.
    """
    names = Names(file, config)
    for wanted, find in _FINDERS.items():
        if config.format in ("auto", wanted) and (found := find(names)):
            return found
    what = "no format fits" if config.format == "auto" else f"the rows do not look like {config.format!r}"
    raise DataError(
        f"{what} these columns",
        where=f"{file.name}:{file.header_line}",
        hint=f"the columns are: {names.listing}; set data.prompt_column, and data.response_column or data.label_column "
        "(or data.format: text)",
    )


def _find_messages(names: Names) -> Detected | None:
    column = names.find("messages", "conversations", "conversation", "dialogue")
    sample = names.sample(column) if column else None
    if column is None or names.prompt or not isinstance(sample, list) or not sample or not isinstance(sample[0], dict):
        return None
    who, what = ("from", "value") if "from" in sample[0] else ("role", "content")
    if not {who, what} <= set(sample[0]):
        return None
    kind = "sharegpt" if who == "from" else "messages"
    if names.forced not in ("auto", kind):
        return None
    chosen, system = names.find("chosen"), names.find("system")
    verdict = names.find("label", "kto_tag")
    verdict = verdict if verdict and isinstance(names.sample(verdict), bool) else None
    label = names.label or names.find(*PAIR_LABELS)

    def parse(row: Mapping[str, Any]) -> Parsed:
        if verdict and row.get(verdict) is False:
            raise Unusable("undesirable: the row is marked as an answer not to give")
        turns = [_turn(t, who, what) for t in _list(row.get(column), column)]
        if system and _string(row.get(system)).strip():
            turns.insert(0, {"role": "system", "content": _string(row[system]), "reasoning": None})
        if chosen and turns and turns[-1]["role"] != "assistant":
            answer = row.get(chosen)
            content = _content(answer.get(what, answer.get("content"))) if isinstance(answer, dict) else _string(answer)
            turns.append({"role": "assistant", "content": content, "reasoning": None})
        return Parsed(turns, _label(row.get(label)) if label else None)

    words = ("ShareGPT conversations" if kind == "sharegpt" else "OpenAI messages") + f" in {column!r}"
    words += ", answered by 'chosen' (preference pairs)" if chosen else ", marked good or bad (KTO)" if verdict else ""
    used = tuple(c for c in (column, chosen, system, verdict, label) if c)
    return Detected(kind, words, used, parse)


def _find_alpaca(names: Names) -> Detected | None:
    instruction = names.find("instruction")
    output = names.response or names.find("output", "response", "answer", "completion")
    instances = names.find("instances")
    if instruction is None or not (output or instances) or names.prompt:
        return None
    inputs, history, system = names.find("input", "context"), names.find("history"), names.find("system")
    label = names.label or names.find(*PAIR_LABELS)

    def parse(row: Mapping[str, Any]) -> Parsed:
        source = row
        if instances and not output:
            first = _list(row.get(instances), instances)
            source = first[0] if first and isinstance(first[0], dict) else {}
        turns: list[Turn] = []
        if system and _string(row.get(system)).strip():
            turns.append(_says("system", row[system]))
        for pair in _list(row.get(history), history) if history and row.get(history) else []:
            if not isinstance(pair, list) or len(pair) != 2:
                raise Unusable("wrong shape: history is a list of [question, answer] pairs")
            turns += [_says("user", pair[0]), _says("assistant", pair[1])]
        extra = source.get("input") if instances and not output else row.get(inputs) if inputs else None
        asked = [_string(row.get(instruction)), _string(extra)]
        turns.append(_says("user", "\n".join(part for part in asked if part.strip())))
        turns.append(_says("assistant", source.get("output") if instances and not output else row.get(output or "")))
        return Parsed(turns, _label(row.get(label)) if label else None)

    used = tuple(c for c in (instruction, inputs, output or instances, history, system, label) if c)
    return Detected("alpaca", f"Alpaca ({' + '.join(used[:3])})", used, parse)


def _find_pair(names: Names) -> Detected | None:
    prompt, response = _pair_columns(names)
    if prompt is None or response is None or prompt == response:
        return None
    title = names.find(*TITLES)
    title = title if title not in (prompt, response) else None
    label = names.label or names.find(*PAIR_LABELS)
    label = label if label not in (prompt, response, title) else None
    system = names.find("system")

    def parse(row: Mapping[str, Any]) -> Parsed:
        asked, heading = _string(row.get(prompt or "")), _string(row.get(title)).strip() if title else ""
        if heading and heading not in asked:
            asked = f"{heading}\n{asked}" if asked.strip() else heading
        turns = [_says("user", asked), _says("assistant", row.get(response or ""))]
        if system and _string(row.get(system)).strip():
            turns.insert(0, _says("system", row[system]))
        return Parsed(turns, _label(row.get(label)) if label else None)

    words = f"{prompt!r} answered by {response!r}"
    words += f", with title {title!r}" if title else ""
    words += f", class {label!r}" if label else ""
    return Detected("pair", words, tuple(c for c in (prompt, response, title, label, system) if c), parse)


def _pair_columns(names: Names) -> tuple[str | None, str | None]:
    """The columns of question and answer: named ones first, the other one by its usual names."""
    prompt, response = names.prompt, names.response
    if prompt and response:
        return prompt, response
    if prompt:
        return prompt, None if names.label else names.find(*dict.fromkeys(a for _, a in PAIRS))
    if response:
        return names.find(*dict.fromkeys(q for q, _ in PAIRS), *TEXTS), response
    pairs = ((names.find(q), names.find(a)) for q, a in PAIRS)
    return next(((q, a) for q, a in pairs if q and a and q != a), (None, None))


def _find_classification(names: Names) -> Detected | None:
    if names.response:
        return None
    label = names.label or names.find(*(n for n in LABELS))
    prompt = names.prompt or next((c for n in TEXTS if (c := names.find(n)) and c != label), None)
    if prompt is None or label is None or prompt == label:
        return None

    def parse(row: Mapping[str, Any]) -> Parsed:
        return Parsed([_says("user", row.get(prompt))], _label(row.get(label)))

    return Detected("classification", f"text {prompt!r} with its class in {label!r}", (prompt, label), parse)


def _find_text(names: Names) -> Detected | None:
    column = names.prompt if names.forced == "text" else None
    column = column or (None if names.prompt else names.find(*PLAIN))
    if column is None:
        return None

    def parse(row: Mapping[str, Any]) -> Parsed:
        return Parsed([_says("assistant", row.get(column))])

    return Detected("text", f"plain text in {column!r} (all of it is learned)", (column,), parse)


_FINDERS: Mapping[str, Callable[[Names], Detected | None]] = {
    "messages": _find_messages,
    "sharegpt": _find_messages,
    "alpaca": _find_alpaca,
    "pair": _find_pair,
    "classification": _find_classification,
    "text": _find_text,
}


def _turn(turn: Any, who: str, what: str) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get(who), str):
        raise Unusable(f"wrong shape: a turn has {who!r} and {what!r}")
    role = _ROLES.get(turn[who].strip().lower())
    if role is None:
        raise Unusable(f"unknown role: {turn[who][:40]!r}")
    reasoning = turn.get("reasoning_content") or turn.get("reasoning")
    thought = replace_surrogates(reasoning) if isinstance(reasoning, str) else None
    return {"role": role, "content": _content(turn.get(what)), "reasoning": thought}


def _says(role: str, value: Any) -> Turn:
    return {"role": role, "content": _string(value), "reasoning": None}


def _content(value: Any) -> str:
    """Text, or the text parts of a list of content parts."""
    if not isinstance(value, list):
        return _string(value)
    parts = []
    for part in value:
        if isinstance(part, dict) and part.get("type", "text") == "text":
            parts.append(_string(part.get("text")))
        elif isinstance(part, str):
            parts.append(replace_surrogates(part))
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise Unusable(f"unsupported: a content part of type {str(kind)[:40]!r}")
    return "\n".join(parts)


def _string(value: Any) -> str:
    if isinstance(value, str):
        return replace_surrogates(value)
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return replace_surrogates(json.dumps(value, ensure_ascii=False))
    return str(value)


def _label(value: Any) -> str | None:
    """A class name: one line without surrounding space, or None."""
    return " ".join(_string(value).split()) or None


def _list(value: Any, column: str | None) -> Sequence[Any]:
    if not isinstance(value, list):
        raise Unusable(f"wrong shape: {column!r} is not a list")
    return value
