"""Raw sources -> raw rows, each with its place: one reader a kind of source, found by suffix or content.

A reader is ``read(path, name, options) -> RawFile``. It streams: whatever the size of the source, memory stays bounded.
What it cannot read becomes a row with its reason; it never raises because of one row.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuneloop.data.documents import AUDIO_SUFFIXES, IMAGE_SUFFIXES, DocumentConfig
from tuneloop.data.readers.unpack import first_bytes, inner_name, packing, read_unpacked
from tuneloop.data.rows import RawFile


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the configuration says about reading. ``table`` and ``query`` are for databases."""

    encoding: str | None = None
    delimiter: str | None = None
    table: str | None = None
    query: str | None = None
    documents: DocumentConfig = field(default_factory=DocumentConfig)
    media_folder: Path | None = None
    """Where readers save the images that rows refer to; None: text only."""


Reader = Callable[[Path, str, ReadOptions], RawFile]

_TEXT = "tuneloop.data.readers.text:read"
_COLUMNAR = "tuneloop.data.readers.columnar:read"
_DATABASE = "tuneloop.data.readers.database:read"
DATABASES = (".sqlite", ".sqlite3", ".db")
"""Suffixes of database files: one is read only where its source names a table or a query."""
BY_SUFFIX: Mapping[str, str] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".txt", ".md"), _TEXT),
    **dict.fromkeys((".parquet", ".pq", ".arrow", ".arrows", ".feather", ".ipc"), _COLUMNAR),
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".xlsb", ".ods"), "tuneloop.data.readers.workbook:read"),
    **dict.fromkeys(DATABASES, _DATABASE),
    **dict.fromkeys((".html", ".htm", ".xhtml"), f"{__name__}.html:read"),
    ".pdf": f"{__name__}.pdf:read",
    ".docx": f"{__name__}.docx:read",
    **dict.fromkeys(IMAGE_SUFFIXES, f"{__name__}.scan:read"),
    **dict.fromkeys(AUDIO_SUFFIXES, f"{__name__}.audio:read"),
    ".dcm": f"{__name__}.dicom:read",
}
"""Suffix -> reader. Text of any suffix is also recognised by its content."""
_BY_CONTENT = ((b"SQLite format 3\x00", _DATABASE), (b"PAR1", _COLUMNAR), (b"ARROW1", _COLUMNAR))
"""How files begin that may carry any suffix."""


def reader_of(path: Path) -> Reader:
    """The reader of a file; of a packed one, the reader of what is inside.

    Raises:
        DataError: The file cannot be opened.
    """
    named = _named(path)
    module, _, function = named.partition(":")
    reader: Reader = getattr(importlib.import_module(module), function)
    if named == _TEXT or packing(path) is None:
        return reader  # text is unpacked as it streams
    return lambda path, name, options: read_unpacked(path, lambda copy: reader(copy, name, options))


def _named(path: Path) -> str:
    named = BY_SUFFIX.get(inner_name(path).suffix.lower(), _TEXT)
    if named != _TEXT:
        return named
    begin = first_bytes(path, 16)
    return next((reader for magic, reader in _BY_CONTENT if begin.startswith(magic)), _TEXT)


def is_database(path: Path) -> bool:
    """Whether a file holds tables, of which one is to be named.

    Raises:
        DataError: The file cannot be opened.
    """
    return _named(path) == _DATABASE


def is_readable(path: Path) -> bool:
    """Whether a file's suffix says that there is a reader for it: what is taken from a folder."""
    suffix = inner_name(path).suffix.lower()
    return suffix in BY_SUFFIX and suffix not in DATABASES
