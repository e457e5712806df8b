"""Parquet, and Arrow in its file and stream forms (Feather 2, the caches of ``datasets``): batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.unpack import first_bytes
from tuneloop.data.readers.values import typed_row
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError

if TYPE_CHECKING:
    import polars as pl

    from tuneloop.data.readers.frames import Kind


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read one Parquet or Arrow file as a stream of batches.

    Memory holds one batch; of Parquet, and of an Arrow file, the decoding process holds a row group.

    Raises:
        DataError: It is not such a file, is damaged as a whole, or holds no rows.
    """
    from tuneloop.data.readers.frames import Damaged
    from tuneloop.data.readers.isolated import frames

    kind = _kind(path, name)
    found = frames(path, kind)
    try:
        first = next(found, None)
    except Damaged as error:
        raise DataError(
            f"damaged {kind}: {error}",
            where=f"{name}:1",
            hint="copy or export the file again; nothing of it can be read",
        ) from None
    if first is None:
        raise DataError("the file holds no rows", where=f"{name}:1", hint="check the export that wrote it")
    facts = {"encoding": kind, "blank_lines": 0}
    return RawFile.start(name, _rows(first, found, kind), tuple(first.columns), facts)


def _kind(path: Path, name: str) -> Kind:
    begin = first_bytes(path, 8)
    if begin.startswith(b"PAR1"):
        return "parquet"
    if begin.startswith(b"ARROW1"):
        return "arrow"
    if begin.startswith(b"\xff\xff\xff\xff"):
        return "arrow stream"
    what = "Feather of the old version 1" if begin.startswith(b"FEA1") else "neither Parquet nor Arrow"
    raise DataError(
        f"this is {what}, in spite of its suffix",
        where=f"{name}:1",
        hint="write it again with a current library, or export it as JSONL",
    )


def _rows(first: pl.DataFrame, others: Iterator[pl.DataFrame], kind: str) -> Iterator[RawRow]:
    from tuneloop.data.readers.frames import Damaged

    number, frame = 0, first
    while True:
        columns = frame.columns
        for values in frame.iter_rows():
            number += 1
            yield typed_row(number, columns, values)
        try:
            following = next(others, None)
        except Damaged as error:
            yield RawRow(number + 1, "", problem=(READ, f"damaged {kind}: it cannot be read from here on ({error})"))
            return
        if following is None:
            return
        frame = following
