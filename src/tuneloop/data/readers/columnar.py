"""Parquet, and Arrow in its file and stream forms (Feather 2, the caches of ``datasets``): batch by batch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.messages import CONTINUES, DICTIONARY, END, MAGIC, SCHEMA, Damaged, check_file, messages
from tuneloop.data.readers.unpack import first_bytes
from tuneloop.data.readers.values import typed_row
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_BATCH_ROWS = 4_096


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read one Parquet or Arrow file as a stream of batches.

    Memory holds one batch, and of Parquet the row group it stands in.

    Raises:
        DataError: It is not such a file, or is damaged as a whole.
    """
    begin = first_bytes(path, 8)
    if begin.startswith(b"PAR1"):
        kind, frames = "parquet", _scanned("scan_parquet", path)
    elif begin.startswith(MAGIC):
        kind, frames = "arrow", _scanned("scan_ipc", path)
    elif begin.startswith(CONTINUES):
        kind, frames = "arrow stream", _streamed(path)
    else:
        what = "Feather of the old version 1" if begin.startswith(b"FEA1") else "neither Parquet nor Arrow"
        hint = "write it again with a current library, or export it as JSONL"
        raise DataError(f"this is {what}, in spite of its suffix", where=f"{name}:1", hint=hint)
    facts = {"encoding": kind, "blank_lines": 0}
    try:
        first = next(frames, None)
    except Damaged as error:
        raise DataError(
            f"damaged {kind}: {error}",
            where=f"{name}:1",
            hint="copy or export the file again; nothing of it can be read",
        ) from None
    if first is None:
        raise DataError("the file holds no rows", where=f"{name}:1", hint="check the export that wrote it")
    return RawFile.start(name, _rows(first, frames, kind), tuple(first.columns), facts)


def _rows(first: pl.DataFrame, others: Iterator[pl.DataFrame], kind: str) -> Iterator[RawRow]:
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


def _guarded(frames: Callable[[], Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Turn what polars raises over damaged bytes into ``Damaged``."""
    import polars as pl

    failures = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, UnicodeDecodeError)
    try:
        yield from frames()
    except failures as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(" ".join(lines[0].split())[:200]) from None


def _scanned(scan: Literal["scan_parquet", "scan_ipc"], path: Path) -> Iterator[pl.DataFrame]:
    import polars as pl

    def frames() -> Iterator[pl.DataFrame]:
        if scan == "scan_ipc":
            with path.open("rb") as file:
                check_file(file, path.stat().st_size)
        lazy: pl.LazyFrame = getattr(pl, scan)(path, glob=False)
        for frame in lazy.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, lazy=True):
            if frame.height:
                yield frame

    return _guarded(frames)


def _streamed(path: Path) -> Iterator[pl.DataFrame]:
    """The stream form of Arrow, one record batch at a time.

    Polars reads such a stream only as a whole; each batch is handed over with the schema and the dictionaries before it.
    """
    import polars as pl

    def frames() -> Iterator[pl.DataFrame]:
        before, most = b"", path.stat().st_size
        with path.open("rb") as file:
            for kind, message in messages(file, most):
                if kind in (SCHEMA, DICTIONARY):
                    before += message
                    continue
                frame = pl.read_ipc_stream(io.BytesIO(before + message + END))
                if frame.height:
                    yield frame

    return _guarded(frames)
