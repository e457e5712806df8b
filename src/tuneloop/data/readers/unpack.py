"""The bytes of a file, a piece at a time; gzip, Zstandard, bzip2 and xz are unpacked on the way."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tuneloop.data.rows import RawFile, RawRow
from tuneloop.errors import DataError

PIECE_BYTES = 256 * 1024
_FEED_BYTES = 4096
"""Packed bytes handed over at once, at most; fewer where they grow a lot (4 bytes of Zstandard can become 128 KiB: RFC
8878, RLE blocks), so that what is unpacked at once stays near ``PIECE_BYTES`` whatever the archive holds."""
_LEAST_FEED_BYTES = 16

_MAGIC = (
    (re.compile(rb"\x1f\x8b"), "gzip"),  # RFC 1952
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "Zstandard"),  # RFC 8878, with skippable frames
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
)
PACKED = (".gz", ".zst", ".bz2", ".xz")
"""Suffixes of packed files; what is inside is said by the suffix before: ``rows.jsonl.gz``."""


class Pieces(Protocol):
    """Bytes that can be walked over several times. After a walk ``damage`` says why it ended early, if it did."""

    damage: str | None

    def pieces(self) -> Iterator[bytes]: ...


class Memory:
    """Bytes that are already here."""

    damage: str | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pieces(self) -> Iterator[bytes]:
        yield from (self._data[at : at + PIECE_BYTES] for at in range(0, len(self._data), PIECE_BYTES))


class FileBytes:
    """The unpacked bytes of a file.

    A damaged archive gives the bytes up to the damage; ``damage`` then holds the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.packing = path, packing(path)
        self.damage: str | None = None

    def pieces(self) -> Iterator[bytes]:
        """
        Raises:
            DataError: The file cannot be opened or read.
        """
        self.damage = None
        try:
            with self.path.open("rb") as file:
                if self.packing:
                    yield from self._gathered(iter(partial(file.read, _FEED_BYTES), b""), self.packing)
                else:
                    yield from iter(partial(file.read, PIECE_BYTES), b"")
        except OSError as error:
            raise cannot_read(self.path, error) from None

    def _gathered(self, packed: Iterator[bytes], kind: str) -> Iterator[bytes]:
        held, size = [], 0
        for data in self._unpacked(packed, kind):
            held.append(data)
            size += len(data)
            if size >= PIECE_BYTES:
                yield b"".join(held)
                held, size = [], 0
        if held:
            yield b"".join(held)

    def _unpacked(self, packed: Iterator[bytes], kind: str) -> Iterator[bytes]:
        """Member after member (``cat a.gz b.gz`` is one archive); zeros behind the last one are padding."""
        begin, failures = _unpacker(kind)
        unpacker, fresh, any_member = begin(), True, False
        portions = _Portions()
        for data in portions.of(packed):
            while data:
                if fresh and any_member and not data.strip(b"\0"):
                    break
                try:
                    out = unpacker.decompress(data)
                    portions.grew_to(len(out))
                    yield out
                except failures as error:
                    detail = " ".join(str(error).split()) or type(error).__name__
                    self.damage = f"damaged archive: {kind} cannot be unpacked from here on ({detail})"
                    return
                fresh, data = False, b""
                if unpacker.eof:
                    data, unpacker, fresh, any_member = unpacker.unused_data, begin(), True, True
        if not fresh:
            self.damage = f"damaged archive: the {kind} file ends too early"


class _Portions:
    """Cuts packed bytes so that what they become stays small."""

    def __init__(self) -> None:
        self._size = _LEAST_FEED_BYTES

    def of(self, packed: Iterator[bytes]) -> Iterator[bytes]:
        for block in packed:
            at = 0
            while at < len(block):
                data = block[at : at + self._size]
                at += len(data)
                yield data

    def grew_to(self, size: int) -> None:
        if size > 4 * PIECE_BYTES:
            self._size = max(_LEAST_FEED_BYTES, self._size // 8)
        elif size < PIECE_BYTES:
            self._size = min(_FEED_BYTES, self._size * 2)


def _unpacker(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """A maker of decompressors that share one interface, and the errors they raise."""
    if kind == "gzip":
        return partial(zlib.decompressobj, 16 + zlib.MAX_WBITS), (zlib.error,)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    if kind == "xz":
        import lzma

        return lzma.LZMADecompressor, (lzma.LZMAError,)
    import zstandard

    return lambda: zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)


def packing(path: Path) -> str | None:
    """How a file is packed, by its first bytes; None when it is not."""
    begin = first_bytes(path, 16)
    return next((kind for magic, kind in _MAGIC if magic.match(begin)), None)


def first_bytes(path: Path, count: int) -> bytes:
    """
    Raises:
        DataError: The file cannot be opened or read.
    """
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise cannot_read(path, error) from None


def cannot_read(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot be read: {error.strerror or error}", where=str(path), hint="check its permissions")


def inner_name(path: Path) -> Path:
    """``rows.jsonl`` for ``rows.jsonl.gz``."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def read_unpacked(path: Path, read: Callable[[Path], RawFile]) -> RawFile:
    """For readers that need a file of their own: unpack into a temporary one that lives as long as the rows are read.

    Raises:
        DataError: The archive is damaged; half of such a file is of no use.
    """
    folder = Path(tempfile.mkdtemp(prefix="tuneloop-"))
    copy, source = folder / inner_name(path).name, FileBytes(path)
    try:
        with copy.open("wb") as file:
            for piece in source.pieces():
                file.write(piece)
        if source.damage:
            raise DataError(source.damage, where=str(path), hint="copy the file again from where it came from")
        found = read(copy)
    except BaseException:
        shutil.rmtree(folder)
        raise
    found.rows = _while_kept(found.rows, folder)
    weakref.finalize(found.rows, shutil.rmtree, folder, ignore_errors=True)  # also when nobody reads them to the end
    return found


def _while_kept(rows: Iterator[RawRow], folder: Path) -> Iterator[RawRow]:
    yield from rows
    shutil.rmtree(folder)
