"""Parquet, and Arrow in its file and stream forms (Feather 2, the caches of ``datasets``): batch by batch."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.unpack import first_bytes
from tuneloop.data.readers.values import typed_row
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_BATCH_ROWS = 4_096
_CONTINUES = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY = 1, 2


class _Damaged(Exception):
    """What is left of the source cannot be read."""


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read one Parquet or Arrow file as a stream of batches.

    Memory holds one batch, and of Parquet the row group it stands in.

    Raises:
        DataError: It is not such a file, or is damaged as a whole.
    """
    begin = first_bytes(path, 8)
    if begin.startswith(b"PAR1"):
        kind, frames = "parquet", _scanned(lambda pl: pl.scan_parquet(path, glob=False))
    elif begin.startswith(b"ARROW1"):
        kind, frames = "arrow", _scanned(lambda pl: pl.scan_ipc(path, glob=False))
    elif begin.startswith(_CONTINUES):
        kind, frames = "arrow stream", _streamed(path)
    else:
        what = "Feather of the old version 1" if begin.startswith(b"FEA1") else "neither Parquet nor Arrow"
        hint = "write it again with a current library, or export it as JSONL"
        raise DataError(f"this is {what}, in spite of its suffix", where=f"{name}:1", hint=hint)
    facts = {"encoding": kind, "blank_lines": 0}
    try:
        first = next(frames, None)
    except _Damaged as error:
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
        except _Damaged as error:
            yield RawRow(number + 1, "", problem=(READ, f"damaged {kind}: it cannot be read from here on ({error})"))
            return
        if following is None:
            return
        frame = following


def _guarded(frames: Callable[[], Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Turn what polars raises over damaged bytes into ``_Damaged``."""
    import polars as pl

    failures = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, UnicodeDecodeError)
    try:
        yield from frames()
    except failures as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _Damaged(" ".join(lines[0].split())[:200]) from None


def _scanned(scan: Callable[[Any], pl.LazyFrame]) -> Iterator[pl.DataFrame]:
    import polars as pl

    def frames() -> Iterator[pl.DataFrame]:
        for frame in scan(pl).collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, lazy=True):
            if frame.height:
                yield frame

    return _guarded(frames)


def _streamed(path: Path) -> Iterator[pl.DataFrame]:
    """The stream form, one record batch at a time.

    Polars reads such a stream only as a whole; each batch is handed over with the schema and the dictionaries before it.
    """
    import polars as pl

    def frames() -> Iterator[pl.DataFrame]:
        before, most = b"", path.stat().st_size
        with path.open("rb") as file:
            for kind, message in _messages(file, most):
                if kind in (_SCHEMA, _DICTIONARY):
                    before += message
                    continue
                frame = pl.read_ipc_stream(io.BytesIO(before + message + _CONTINUES + bytes(4)))
                if frame.height:
                    yield frame

    return _guarded(frames)


def _messages(file: BinaryIO, most: int) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of each encapsulated message (Arrow columnar format 1.5, "Encapsulated message format").

    Raises:
        _Damaged: The stream ends inside a message, or is none.
    """
    while head := file.read(8):
        if len(head) < 8 or head[:4] != _CONTINUES:
            raise _Damaged("it ends too early" if len(head) < 8 else "no message begins here")
        (size,) = struct.unpack("<i", head[4:])
        if size == 0:
            return
        meta = _exactly(file, size, most)
        try:
            kind, body_size = _header(meta)
        except (struct.error, IndexError):
            raise _Damaged("a message without a readable header") from None
        body = _exactly(file, body_size, most)
        yield kind, head + meta + body


def _exactly(file: BinaryIO, size: int, most: int) -> bytes:
    data = file.read(size) if 0 <= size <= most else b""
    if len(data) != size:
        raise _Damaged("it ends too early")
    return data


def _header(meta: bytes) -> tuple[int, int]:
    """Header type and body length of a ``Message`` flatbuffer (fields 1 and 3 of Message.fbs)."""
    (table,) = struct.unpack_from("<i", meta, 0)
    vtable = table - struct.unpack_from("<i", meta, table)[0]
    (vtable_size,) = struct.unpack_from("<H", meta, vtable)

    def field(number: int, layout: str) -> int:
        slot = 4 + 2 * number
        at = struct.unpack_from("<H", meta, vtable + slot)[0] if slot < vtable_size else 0
        return int(struct.unpack_from(layout, meta, table + at)[0]) if at else 0

    return field(1, "<B"), field(3, "<q")
