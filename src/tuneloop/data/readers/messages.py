"""The messages of Arrow streams and files, checked before anybody allocates what they claim.

Layout: Arrow columnar format 1.5, "Encapsulated message format" and "IPC File Format"; tables: Message.fbs and File.fbs of
Apache Arrow. Readers of Arrow trust the lengths in it; damaged ones end the process. Here they end the rows.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

CONTINUES = b"\xff\xff\xff\xff"
END = CONTINUES + bytes(4)
MAGIC = b"ARROW1"
SCHEMA, DICTIONARY, BATCH = 1, 2, 3
_MOST_UNPACKED = 2**31
"""Bytes of one buffer: writers split larger ones."""
_SMALL = 2**20
"""A column of nothing but nulls takes no bytes at all."""


class Damaged(Exception):
    """What is left of the source cannot be read."""


def messages(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of each message, from where the file stands.

    Args:
        size: Bytes of the whole file; no length in it may be larger.

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
            message = _Table.root(meta)
            body = _exactly(file, message.integer(3, "<q"), size)
            kind = _check(message, io.BytesIO(body), 0, len(body))
        except (struct.error, IndexError):
            raise Damaged("a message without a readable header") from None
        yield kind, head + meta + body


def check_file(file: BinaryIO, size: int) -> None:
    """Check every message that the index at the end of an Arrow file names.

    Raises:
        Damaged: The index or a message in it claims what cannot be.
    """
    try:
        file.seek(max(size - 10, 0))
        (index_size,) = struct.unpack("<i", file.read(4))
        if file.read() != MAGIC or not 0 < index_size < size:
            raise Damaged("it has no index at its end: it was cut off, or not written to the end")
        file.seek(size - 10 - index_size)
        index = _Table.root(file.read(index_size))
        for offset, meta_size, _, body_size in (*index.structs(2, "<qiiq"), *index.structs(3, "<qiiq")):
            if min(offset, meta_size, body_size) < 0 or offset + meta_size + body_size > size:
                raise Damaged("its index points outside of it")
            file.seek(offset)
            meta = file.read(meta_size)
            meta = meta[8:] if meta.startswith(CONTINUES) else meta[4:]
            _check(_Table.root(meta), file, offset + meta_size, body_size)
    except (struct.error, IndexError):
        raise Damaged("a message without a readable header") from None


def _exactly(file: BinaryIO, count: int, size: int) -> bytes:
    data = file.read(count) if 0 <= count <= size else b""
    if len(data) != count:
        raise Damaged("it ends too early")
    return data


def _check(message: _Table, file: BinaryIO, start: int, size: int) -> int:
    """Kind of a message whose body of ``size`` bytes stands at ``start``.

    Every buffer lies in the body, and no column is longer than the body could hold in bits.

    Raises:
        Damaged: It is not so.
    """
    kind = message.integer(1, "<B")
    if kind not in (DICTIONARY, BATCH):
        return kind
    batch = message.table(2) if kind == BATCH else message.table(2).table(1)
    most = 8 * max(size, _SMALL)
    for offset, length in batch.structs(2, "<qq"):
        if offset < 0 or length < 0 or offset + length > size:
            raise Damaged("a column lies outside its batch")
        if batch.has(3) and length:  # compressed: the unpacked length stands before the bytes
            file.seek(start + offset)
            (unpacked,) = struct.unpack("<q", file.read(8))
            if not -1 <= unpacked <= _MOST_UNPACKED:
                raise Damaged("a column is longer than can be")
            most = max(most, 8 * unpacked)
    if not all(0 <= n <= most for n in (batch.integer(0, "<q"), *(n for n, _ in batch.structs(1, "<qq")))):
        raise Damaged("a column is longer than its batch")
    return kind


class _Table:
    """A flatbuffer table: enough of the encoding to read integers, tables and vectors of structs."""

    def __init__(self, data: bytes, at: int) -> None:
        if not 0 <= at < len(data):
            raise IndexError
        self._data, self._at = data, at
        self._slots = at - self._read("<i", at)
        self._slots_end = self._slots + self._read("<H", self._slots)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<i", data, 0)[0])

    def _read(self, layout: str, at: int) -> int:
        if at < 0:
            raise IndexError
        return int(struct.unpack_from(layout, self._data, at)[0])

    def _field(self, number: int) -> int:
        """Where a field stands; 0 when it is left out."""
        slot = self._slots + 4 + 2 * number
        inside = self._read("<H", slot) if slot < self._slots_end else 0
        return self._at + inside if inside else 0

    def has(self, number: int) -> bool:
        return self._field(number) > 0

    def integer(self, number: int, layout: str) -> int:
        at = self._field(number)
        return self._read(layout, at) if at else 0

    def table(self, number: int) -> _Table:
        at = self._field(number)
        return _Table(self._data, at + self._read("<i", at))

    def structs(self, number: int, layout: str) -> Iterator[tuple[int, ...]]:
        """A vector of structs: ``FieldNode``, ``Buffer``, ``Block``."""
        if at := self._field(number):
            at += self._read("<i", at)
            end = at + 4 + self._read("<I", at) * struct.calcsize(layout)
            if at < 0 or end > len(self._data):
                raise IndexError
            yield from struct.iter_unpack(layout, self._data[at + 4 : end])
