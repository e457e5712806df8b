"""CSV, TSV, JSON, JSON Lines and plain text: told apart by content, with the suffix as a hint."""

from __future__ import annotations

from pathlib import Path

from tuneloop.data.readers import ReadOptions, lines, table
from tuneloop.data.readers.encoding import decode
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read one text file.

    Raises:
        DataError: It is empty, not text, or cannot be opened.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), hint="check its permissions") from None
    text = decode(data, name, options.encoding)
    suffix = path.suffix.lower()
    first = next((line.lstrip()[:1] for line in text.lines if line.strip()), "")
    if suffix in (".jsonl", ".ndjson", ".json") or (first in ("{", "[") and suffix not in (".csv", ".tsv", ".tab")):
        array = first == "[" and suffix not in (".jsonl", ".ndjson")
        if array or (suffix not in (".jsonl", ".ndjson") and not lines.looks_like_json_lines(text)):
            return lines.read_json(text, name)
        return lines.read_json_lines(text, name)
    if suffix in (".txt", ".md"):
        return lines.read_plain(text, name)
    return table.read_table(text, name, delimiter=options.delimiter)
