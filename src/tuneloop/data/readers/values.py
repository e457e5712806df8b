"""Values of typed sources (Parquet, spreadsheets, databases) as JSON has them, and the rows they make."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from tuneloop.data.readers.stream import SURROGATE
from tuneloop.data.rows import READ, RawRow

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_AS_THEY_ARE = (str, int, bool, type(None))


def plain(value: Any) -> Any:
    """A value as JSON has it.

    Dates and times become ISO 8601 text (in UTC where they have a zone: a session's own would differ), decimals their digits, bytes text where they are UTF-8 and otherwise their length
    and hash, a float that is no number ``None``.
    """
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return _from_bytes(bytes(value))
    return _as_text(value)


def _as_text(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else None
    if hasattr(value, "to_list"):  # a polars Series stands for a list inside a row
        return [plain(inner) for inner in value.to_list()]
    return str(value)


def _from_bytes(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"binary: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}"


def typed_row(number: int, columns: Sequence[str], values: Sequence[Any], place: str = "") -> RawRow:
    """A row of a typed source; its raw form is the JSON of its fields."""
    fields = dict(zip(columns, map(plain, values), strict=True))
    raw = _ENCODE(fields)
    if not raw.isascii() and SURROGATE.search(raw):
        shown = raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return RawRow(number, shown, problem=(READ, "wrong encoding: bytes that are not utf-8"), place=place)
    return RawRow(number, raw, fields, place=place)
