"""Filters inside JSON: arguments of a call, schemas of functions. A client decodes them, so they are read decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from tuneloop.serve.filters.text import Check, Hits, whole

Checks = Callable[[], Sequence[Check]]
"""Gives new checks for a text."""


_ESCAPED = re.compile(r"\\\\|\\/|(?:\\u[0-9a-fA-F]{4})+")
_HALF = re.compile("[\ud800-\udfff]")


class Blocked(Exception):
    """Something in the JSON must not go on."""


class _Pairs(list[tuple[str, Any]]):
    """An object with all of its members, also those whose name stands there twice."""


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


def filtered_json(text: str, checks: Checks, hits: Hits) -> str:
    """JSON in which keys, strings and numbers have been filtered, each by itself and behind its key.

    Unchanged JSON is returned as it was written; what is no JSON (a call that was cut) is filtered as text, its escaped
    characters written out, as a client reads them.

    Args:
        text: The JSON.
        checks: Gives new checks for each text.
        hits: Counts what is found.

    Raises:
        Blocked: A check whose action is block found something.
    """
    read = _read(text)
    if read is None:
        return _text(_ESCAPED.sub(_written_out, text), checks, hits)
    out = _walk(read, "", checks, hits)
    return text if out == read else json.dumps(_plain(out), ensure_ascii=False)


def _read(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError):
        return None


def _written_out(found: re.Match[str]) -> str:
    """Escaped characters as themselves, where JSON allows them so."""
    if found[0] == "\\\\":
        return found[0]
    characters = json.dumps(json.loads(f'"{found[0]}"'), ensure_ascii=False)[1:-1]
    return found[0] if _HALF.search(characters) else characters


def _walk(value: Any, key: str, checks: Checks, hits: Hits) -> Any:
    if isinstance(value, _Pairs):
        return _Pairs((_text(k, checks, hits), _walk(v, k, checks, hits)) for k, v in value)
    if isinstance(value, list):
        return [_walk(v, key, checks, hits) for v in value]
    if not isinstance(value, str):
        return value
    if value[:1] in ("{", "[") and not isinstance(value, _Number) and _read(value) is not None:
        return filtered_json(value, checks, hits)
    out = _text(value, checks, hits)
    if key:
        named = _text(f"{key}: {out}", checks, hits)
        out = named.removeprefix(f"{key}: ") if named != f"{key}: {out}" else out
    return value if out == value else str(out)


def _text(text: str, checks: Checks, hits: Hits) -> str:
    out = whole(text, checks(), hits)
    if out is None:
        raise Blocked
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {k: _plain(v) for k, v in value}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, _Number):
        return float(value) if any(c in value for c in ".eE") else int(value)
    return value
