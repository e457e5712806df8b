"""Parquet and Arrow files -> polars frames, batch by batch.

Runs in the process of ``isolated``: polars trusts the lengths that stand in such files, and damaged ones can end it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import polars as pl

Kind = Literal["parquet", "arrow", "arrow stream"]
BATCH_ROWS = 4_096
CONTINUES = b"\xff\xff\xff\xff"
_END = CONTINUES + bytes(4)
_SCHEMA, _DICTIONARY = 1, 2


class Damaged(Exception):
    """What is left of the source cannot be read."""


def decode(path: Path, kind: Kind) -> Iterator[pl.DataFrame]:
    """Frames of at most ``BATCH_ROWS`` rows, none of them empty.

    Raises:
        Damaged: There is no reading on.
    """
    failures = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, MemoryError)
    try:
        for frame in _streamed(path) if kind == "arrow stream" else _scanned(path, kind):
            yield from (part for part in frame.iter_slices(BATCH_ROWS) if part.height)
    except failures as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(" ".join(lines[0].split())[:200]) from None


def _scanned(path: Path, kind: Kind) -> Iterator[pl.DataFrame]:
    lazy = pl.scan_parquet(path, glob=False) if kind == "parquet" else pl.scan_ipc(path, glob=False)
    yield from lazy.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True, lazy=True)


def _streamed(path: Path) -> Iterator[pl.DataFrame]:
    """The stream form of Arrow, one record batch at a time.

    Polars reads such a stream only as a whole; each batch is handed over with the schema and the dictionaries before it.
    """
    before = b""
    with path.open("rb") as file:
        for kind, message in _messages(file, path.stat().st_size):
            if kind in (_SCHEMA, _DICTIONARY):
                before += message
            else:
                yield pl.read_ipc_stream(io.BytesIO(before + message + _END))


def _messages(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of each message (Arrow columnar format 1.5, "Encapsulated message format").

    Raises:
        Damaged: The stream ends inside a message, or a message is none.
    """
    while head := file.read(8):
        if len(head) < 8 or head[:4] != CONTINUES:
            raise Damaged("it ends too early" if len(head) < 8 else "no message begins here")
        (meta_size,) = struct.unpack("<i", head[4:])
        if meta_size == 0:
            return
        meta = _exactly(file, meta_size, size)
        try:
            kind, body_size = _header(meta)
        except struct.error:
            raise Damaged("a message without a readable header") from None
        yield kind, head + meta + _exactly(file, body_size, size)


def _exactly(file: BinaryIO, count: int, size: int) -> bytes:
    data = file.read(count) if 0 <= count <= size else b""
    if len(data) != count:
        raise Damaged("it ends too early")
    return data


def _header(meta: bytes) -> tuple[int, int]:
    """Header type and body length of a ``Message`` flatbuffer (fields 1 and 3 of Arrow's Message.fbs)."""
    (table,) = struct.unpack_from("<I", meta, 0)
    slots = table - struct.unpack_from("<i", meta, table)[0]
    if not 0 <= slots < len(meta):
        raise struct.error
    (slots_size,) = struct.unpack_from("<H", meta, slots)

    def field(number: int, layout: str) -> int:
        slot = 4 + 2 * number
        at = struct.unpack_from("<H", meta, slots + slot)[0] if slot < slots_size else 0
        return int(struct.unpack_from(layout, meta, table + at)[0]) if at else 0

    return field(1, "<B"), field(3, "<q")
