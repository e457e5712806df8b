"""What the rows of a file mean: detected from names and content, overridable, and said out loud.

detect(file, config)            -> Detected     which format, in words, and the columns it uses
understand(row, detected)       -> Parsed       one row
understand_all(rows, detected)  -> DataFrame    the same for a part of a file, several times faster
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tuneloop.data.columns import Names
from tuneloop.data.config import DataConfig
from tuneloop.data.formats.annotation import find_annotation
from tuneloop.data.formats.batch import understand_all
from tuneloop.data.formats.conversation import find_messages
from tuneloop.data.formats.kept import check_kept, complete, kept
from tuneloop.data.formats.nouns import Detected, Parsed, Turn, Unusable
from tuneloop.data.formats.preference import find_kto, find_preference, judge
from tuneloop.data.formats.tables import find_alpaca, find_classification, find_pair, find_rows, find_text
from tuneloop.data.rows import RawFile, RawRow
from tuneloop.errors import DataError

__all__ = [
    "Detected",
    "Parsed",
    "Turn",
    "Unusable",
    "check_kept",
    "detect",
    "kept",
    "understand",
    "understand_all",
]

_FINDERS: Mapping[str, Callable[[Names], Detected | None]] = {
    "preference": find_preference,
    "kto": find_kto,
    "messages": find_messages,
    "sharegpt": find_messages,
    "annotation": find_annotation,
    "alpaca": find_alpaca,
    "pair": find_pair,
    "classification": find_classification,
    "text": find_text,
}
"""The more a format asks for, the earlier it is tried."""


def understand(row: RawRow, detected: Detected) -> Parsed:
    """Turn one readable row into a conversation.

    Raises:
        Unusable: It has the wrong shape.
    """
    return detected.parse(row.fields)


def detect(file: RawFile, config: DataConfig) -> Detected:
    """Find out what the rows of a file mean, from its first rows.

    Raises:
        DataError: A named column does not exist, or no format fits.
    """
    names = Names(file, config)
    for wanted, find in _FINDERS.items():
        if config.format in ("auto", wanted) and (found := find(names)):
            return complete(judge(found, names), names, config)
    if config.format == "auto" and (rows := find_rows(names)):
        advice = f"{rows.words}; if one column is the text, {_advice(names)}"
        return complete(replace(rows, words=advice), names, config)
    what = "no format fits" if config.format == "auto" else f"the rows do not look like {config.format!r}"
    raise DataError(
        f"{what} these columns",
        where=f"{file.name}:{file.header_line}",
        hint=f"the columns are: {names.listing}; {_advice(names)}",
    )


def _advice(names: Names) -> str:
    """What to set; where one column clearly holds text, that column is named."""
    texts: Sequence[str] = [c for c in names.file.columns if names.is_text(c) and names.facts(c).mean_chars >= 20]
    longest = max(texts, key=lambda c: names.facts(c).mean_chars, default=None)
    named = f" (text stands in {longest!r})" if longest else ""
    return f"set data.prompt_column{named}, and data.response_column or data.label_column (or data.format: text)"
