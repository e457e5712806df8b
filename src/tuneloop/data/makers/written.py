"""What a model wrote -> rows, or why not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from tuneloop.data.frame import make_frame
from tuneloop.data.makers.asking import Answer
from tuneloop.data.makers.examples import Example, Kind
from tuneloop.data.makers.rows import fields_text
from tuneloop.data.makers.schema import problem
from tuneloop.data.readers.encoding import replace_surrogates

_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_SAID = frozenset({"text", "prompt", "response", "reasoning", "label"})
_DECODER = json.JSONDecoder()


class Written(NamedTuple):
    """A valid object of an answer, as a row."""

    kind: Kind
    messages: Sequence[Mapping[str, str | None]]
    fields: str | None
    parents: Sequence[str]
    source: int | None
    raw: str


class Rejected(NamedTuple):
    """A line of ``rejected.jsonl``; ``reason`` is ``category: detail``."""

    label: str
    reason: str
    raw: str


def parse(
    answer: Answer, kind: Kind, examples: Sequence[Example], schema: Mapping[str, Any]
) -> tuple[list[Written], list[Rejected]]:
    """The rows of one answer: a JSON array of objects, or one object, in any wrapping (a code fence, a sentence, thoughts)."""
    if answer.refused is not None:
        return [], [Rejected(kind.label, f"refused: {answer.refused}", "")]
    found = _json_in(_THINKING.sub("", answer.text))
    if found is None:
        return [], [Rejected(kind.label, "bad JSON: there is no JSON array or object", answer.text)]
    good, bad = [], []
    for item in found if isinstance(found, list) else [found]:
        raw = replace_surrogates(json.dumps(item, ensure_ascii=False))
        wrong = problem(item, schema) or _other_class(item, kind)
        if wrong:
            bad.append(Rejected(kind.label, f"schema: {wrong}", raw))
        else:
            good.append(_row(json.loads(raw), kind, examples, raw))
    return good, bad


def _json_in(text: str) -> Any:
    """The first JSON array or object in a text, or None."""
    for start in re.finditer(r"[\[{]", text):
        try:
            value, _ = _DECODER.raw_decode(text, start.start())
        except ValueError:
            continue
        if isinstance(value, dict) or (isinstance(value, list) and value):
            return value
    return None


def _other_class(item: Any, kind: Kind) -> str | None:
    if not isinstance(item, dict):
        return "row is not an object"
    other = item.get("label", kind.label)
    return None if other == kind.label else f"row.label is {other!r}, asked for was {kind.label!r}"


def _row(item: Mapping[str, Any], kind: Kind, examples: Sequence[Example], raw: str) -> Written:
    turns: list[dict[str, str | None]] = [{"role": "user", "content": item.get("text") or item["prompt"]}]
    if "response" in item:
        turns.append({"role": "assistant", "content": item["response"], "reasoning": item.get("reasoning")})
    others = {key: value for key, value in item.items() if key not in _SAID}
    return Written(kind, turns, fields_text(others), [e.id for e in examples], examples[0].source, raw)


def as_rows(written: Sequence[Written]) -> pl.DataFrame:
    """A frame of rows without number and name: see ``rows.christen``."""
    return make_frame(
        {
            "id": [""] * len(written),
            "messages": [w.messages for w in written],
            "fields": [w.fields for w in written],
            "label": [w.kind.label or None for w in written],
            "parents": [list(w.parents) for w in written],
            "source": [w.source for w in written],
        }
    )
