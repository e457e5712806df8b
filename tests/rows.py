"""Rows without a file: for tests of what rows mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tuneloop.data import DataConfig
from tuneloop.data.formats import Detected, Parsed, detect
from tuneloop.data.rows import RawFile, RawRow

USER, ANSWER, WORSE = ("user", "Q"), ("assistant", "A"), ("rejected", "W")


def file(*rows: Mapping[str, Any]) -> RawFile:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return RawFile.start("rows.json", [RawRow(i + 1, "", row) for i, row in enumerate(rows)], columns)


def found(*rows: Mapping[str, Any], **config: Any) -> Detected:
    return detect(file(*rows), DataConfig(sources="rows.json", **config))


def understood(row: Mapping[str, Any], **config: Any) -> Parsed:
    """One row in the format that is detected from it alone."""
    return found(row, **config).parse(row)


def said(parsed: Parsed) -> list[tuple[Any, Any]]:
    return [(turn["role"], turn["content"]) for turn in parsed.turns]


def calls(parsed: Parsed) -> list[list[tuple[str, Any]]]:
    """(name, arguments) of the calls of each turn that has any."""
    held = [json.loads(turn["tool_calls"]) for turn in parsed.turns if turn.get("tool_calls")]
    return [[(call["name"], json.loads(call["arguments"])) for call in turn] for turn in held]


def media(parsed: Parsed) -> list[tuple[str, list[tuple[str, str]]]]:
    """(text, [(kind, source)]) of each turn that has media."""
    held = [(turn["content"], json.loads(turn["media"])) for turn in parsed.turns if turn.get("media")]
    return [(str(text), [(m["kind"], m["source"]) for m in found]) for text, found in held]
