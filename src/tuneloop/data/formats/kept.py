"""What is put on top of a detected format: function schemas, media, and the columns that the project keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuneloop.data.columns import TOOLS, Names
from tuneloop.data.config import DataConfig
from tuneloop.data.formats import media
from tuneloop.data.formats.calls import tools_json
from tuneloop.data.formats.nouns import Detected, Parsed, Row
from tuneloop.data.formats.values import json_text
from tuneloop.errors import DataError

_WITHOUT_TOOLS = ("annotation", "classification", "text")


def kept(config: DataConfig) -> tuple[str, ...]:
    """The columns that the project keeps: those it names, the group, the strata. ``label`` is kept anyway."""
    group = [config.group_column] if config.group_column else []
    return tuple(dict.fromkeys(n for n in (*config.keep_columns, *group, *config.stratify_columns) if n != "label"))


def check_kept(config: DataConfig, found: Sequence[Detected]) -> None:
    """Refuse a column to keep that no source has. (Groups and strata are the split's to check.)

    Raises:
        DataError: There is one.
    """
    for name in config.keep_columns:
        if found and all(name in detected.missing for detected in found):
            hint = "its name must be that of a column of a source"
            raise DataError(f"no source has a column {name!r}", where="data.keep_columns", hint=hint)


def complete(found: Detected, names: Names, config: DataConfig) -> Detected:
    """The format with everything that stands beside the conversation."""
    columns = {name: column for name in kept(config) if (column := names.find(name))}
    missing = tuple(name for name in kept(config) if name not in columns)
    found = replace(found, keep=columns, missing=missing)
    if found.kind not in _WITHOUT_TOOLS:
        found = _with_media(_with_tools(found, names), names)
    return _with_fields(found) if columns else found


def _with_tools(found: Detected, names: Names) -> Detected:
    column = names.find(*TOOLS)
    if column is None or column in found.used or not _are_schemas(names.sample(column)):
        return found

    def parse(row: Row) -> Parsed:
        return found.parse(row)._replace(tools=tools_json(row.get(column)))

    return replace(
        found, words=f"{found.words}, functions in {column!r}", used=(*found.used, column), parse=parse, flat=None
    )


def _are_schemas(sample: Any) -> bool:
    return isinstance(sample, list | dict) or (isinstance(sample, str) and sample.lstrip()[:1] in ("[", "{"))


def _with_media(found: Detected, names: Names) -> Detected:
    columns = {c: kind for name, kind in media.COLUMNS.items() if (c := names.find(name)) and c not in found.used}
    columns = {c: kind for c, kind in columns.items() if names.sample(c) is not None}
    if not columns:
        return found

    def parse(row: Row) -> Parsed:
        parsed = found.parse(row)
        media.attach(parsed.turns, row, columns)
        return parsed

    words = f"{found.words}, with {' and '.join(map(repr, columns))}"
    return replace(found, words=words, used=(*found.used, *columns), parse=parse, flat=None)


def _with_fields(found: Detected) -> Detected:
    def parse(row: Row) -> Parsed:
        parsed = found.parse(row)
        return parsed._replace(fields=fields_json(row, found.keep, parsed.fields))

    new = tuple(c for c in found.keep.values() if c not in found.used)
    words = f"{found.words}, kept: {', '.join(found.keep)}"
    return replace(found, words=words, used=(*found.used, *new), parse=parse)


def fields_json(row: Row, keep: Mapping[str, str], have: str | None = None) -> str:
    """The kept columns of a row as a JSON object, under the names that the project uses.

    Args:
        row: The raw row.
        keep: Name -> column.
        have: Fields that the format itself found.
    """
    values = {name: value for name, column in keep.items() if (value := row.get(column)) == value}  # without NaN
    return json_text({**(json.loads(have) if have else {}), **values})
