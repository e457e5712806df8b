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
from tuneloop.data.rows import RawFile


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the configuration says about reading."""

    encoding: str | None = None
    delimiter: str | None = None
    documents: DocumentConfig = field(default_factory=DocumentConfig)
    media_folder: Path | None = None
    """Where readers save the images that rows refer to; None: text only."""


Reader = Callable[[Path, str, ReadOptions], RawFile]

_TEXT = "tuneloop.data.readers.text:read"
BY_SUFFIX: Mapping[str, str] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".txt", ".md"), _TEXT),
    **dict.fromkeys((".html", ".htm", ".xhtml"), f"{__name__}.html:read"),
    ".pdf": f"{__name__}.pdf:read",
    ".docx": f"{__name__}.docx:read",
    **dict.fromkeys(IMAGE_SUFFIXES, f"{__name__}.scan:read"),
    **dict.fromkeys(AUDIO_SUFFIXES, f"{__name__}.audio:read"),
    ".dcm": f"{__name__}.dicom:read",
}
"""Suffix -> reader. Text of any suffix is also recognised by its content."""


def reader_of(path: Path) -> Reader:
    module, _, function = BY_SUFFIX.get(path.suffix.lower(), _TEXT).partition(":")
    reader: Reader = getattr(importlib.import_module(module), function)
    return reader
