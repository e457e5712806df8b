"""CSV, TSV, JSON, JSON Lines and plain text: told apart by content, with the suffix as a hint."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tuneloop.data.readers import ReadOptions, array, lines, table
from tuneloop.data.readers.dialect import is_tabular
from tuneloop.data.readers.encoding import open_text
from tuneloop.data.readers.stream import TextStream
from tuneloop.data.readers.unpack import FileBytes, inner_name
from tuneloop.data.rows import RawFile

_JSON_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv", ".tab")
_PROBED_LINES = 100


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read one text file, packed or not, as a stream.

    Raises:
        DataError: It is empty, not text, or cannot be opened.
    """
    text = open_text(FileBytes(path), name, options.encoding)
    suffix = inner_name(path).suffix.lower()
    first = _first_character(text)
    if suffix in (*_JSON_LINES, ".json") or (first in ("{", "[") and suffix not in _TABLES):
        if suffix in _JSON_LINES or (first != "[" and lines.looks_like_json_lines(text)):
            return lines.read_json_lines(text, name)
        return array.read_json(text, name)
    known = suffix in _TABLES or options.delimiter is not None
    if suffix in (".txt", ".md") or not (known or is_tabular(list(islice(text.lines(), _PROBED_LINES)))):
        how = options.documents.text
        how = ("sections" if suffix == ".md" else "lines") if how == "auto" else how
        return lines.read_plain(text, name) if how == "lines" else lines.read_pieces(text, name, how)
    return table.read_table(text, name, delimiter=options.delimiter)


def _first_character(text: TextStream) -> str:
    return next((stripped[0] for piece in text.pieces() if (stripped := piece.lstrip())), "")
