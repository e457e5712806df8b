"""Which encoding a text has: byte-order mark, strict UTF-8, UTF-16 by its zero bytes, then detection.

The whole source is surveyed once before it is read, a piece at a time: a file whose first Chinese word stands behind a
gigabyte of English is still read in the right encoding. For plain UTF-8 that costs little more than reading the bytes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from tuneloop.data.readers.stream import SURROGATE, Decoding, TextStream
from tuneloop.data.readers.unpack import Memory, Pieces
from tuneloop.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the one of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY = (
    (b"PK\x03\x04", "a ZIP container (XLSX, DOCX, ...)", "unpack it, or give it the suffix that says what it is"),
    (b"\x1f\x8b", "gzip", "unpack it: gunzip -k FILE"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it: zstd -d FILE"),
    (b"PAR1", "Parquet", "give it the suffix .parquet"),
    (b"ARROW1", "Arrow", "give it the suffix .arrow"),
    (b"%PDF", "a PDF", "give it the suffix .pdf"),
    (b"\xd0\xcf\x11\xe0", "an old or encrypted Office file", "save the sheet as XLSX or CSV, without a password"),
    (b"SQLite format 3\x00", "a SQLite database", "unpack it, then name a table or a query of it"),
)
_TAR_MAGIC_AT = 257
_DOUBLE_BYTE = ["gb18030", "cp932", "big5", "euc_jp", "euc_kr"]
_LEGACY = [*_DOUBLE_BYTE, "cp1252", "cp1251"]
_SAMPLE_BYTES = 256 * 1024
_UTF8_LINES = 0.8
"""A file is UTF-8 with damage, not another encoding, when this share of its non-ASCII lines is valid UTF-8."""

_STRAY_BYTES = 0.1
"""Or when there is at most one byte that does not fit to ten characters that do: a file may be one long line. Text in
another encoding has more bytes that do not fit than characters that do by chance."""
_FOREIGN = re.compile("[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class Text:
    """A small decoded file: its physical lines without line ends.

    ``bad_lines`` are the indices (from 0) of lines with bytes that the encoding does not know; these bytes stand there
    as ``\\xNN``.
    """

    lines: list[str]
    encoding: str
    bad_lines: frozenset[int]


def decode(data: bytes, name: str, encoding: str | None = None) -> Text:
    """Decode a file that is in memory. Arguments and errors are those of ``open_text``."""
    text = open_text(Memory(data), name, encoding)
    lines = list(text.lines())
    damaged = text.decoding.errors != "strict"
    bad = frozenset(i for i, line in enumerate(lines) if damaged and text.is_bad(line))
    return Text([text.shown(line) if i in bad else line for i, line in enumerate(lines)], text.encoding, bad)


def open_text(source: Pieces, name: str, encoding: str | None = None) -> TextStream:
    """Find the encoding of a source.

    Args:
        source: Its bytes; they are walked over once here, or twice where they are not UTF-8.
        name: What it is called in messages.
        encoding: From the configuration: then nothing else is tried, and every byte must fit.

    Raises:
        DataError: It is empty, not text, or does not have the encoding asked for.
    """
    head = _head(source)
    if not head.strip() and all(not piece.strip() for piece in source.pieces()):
        if source.damage:
            raise DataError(source.damage, where=f"{name}:1", hint="copy the file again from where it came from")
        raise DataError("the file is empty", where=f"{name}:1", hint="check the export that wrote it")
    _refuse_binary(head, name)
    return TextStream(source, name, _told(source, name, encoding) if encoding else _found(source, head, name))


def replace_surrogates(text: str) -> str:
    """Half a character (from ``\\ud83d`` in JSON) cannot be stored: it becomes U+FFFD."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def _head(source: Pieces) -> bytes:
    held, size = [], 0
    for piece in source.pieces():
        held.append(piece)
        size += len(piece)
        if size >= _SAMPLE_BYTES:
            break
    return b"".join(held)[:_SAMPLE_BYTES]


def _refuse_binary(head: bytes, name: str) -> None:
    for magic, what, hint in _BINARY:
        if head.startswith(magic):
            raise DataError(f"this is {what}, not text", where=f"{name}:1", hint=hint)
    if head[_TAR_MAGIC_AT:].startswith(b"ustar"):
        raise DataError("this is a tar archive, not text", where=f"{name}:1", hint="unpack it: tar -xf FILE")


def _told(source: Pieces, name: str, encoding: str) -> Decoding:
    if found := _first_misfit(source, encoding):
        at, byte = found
        line = _line_of_byte(source, at)
        raise DataError(
            f"byte 0x{byte:02x} in line {line} is not {encoding}",
            where=f"{name}:{line}",
            hint="leave data.encoding out to have it detected",
        )
    return Decoding(encoding)


def _found(source: Pieces, head: bytes, name: str) -> Decoding:
    for mark, found in _BOMS:
        if head.startswith(mark):
            return _tolerant(source, found)
    if wide := _utf16_by_zeros(head):
        return _tolerant(source, wide)
    survey = _Survey(source)
    if survey.zeros > max(8, survey.size // 100):
        line = _line_of_byte(source, survey.first_zero)
        raise DataError(
            f"this is not text: {survey.zeros:,} zero bytes, the first in line {line}",
            where=f"{name}:{line}",
            hint="name the encoding (data.encoding: utf-16-le) or export the file as UTF-8 text",
        )
    if survey.misfit is None:
        return Decoding("utf-8")
    return _damaged_or_legacy(source, name, survey.misfit)


def _tolerant(source: Pieces, encoding: str) -> Decoding:
    if encoding == "utf-8":
        return Decoding(encoding, "surrogateescape" if _first_misfit(source, encoding) else "strict")
    return Decoding(encoding, "replace")


class _Survey:
    """One walk over the bytes: how many, how many zeros, and where they first are not UTF-8."""

    def __init__(self, source: Pieces) -> None:
        self.size = self.zeros = self.first_zero = 0
        self.misfit: int | None = None
        decoder = codecs.getincrementaldecoder("utf-8")()
        for piece in source.pieces():
            if zeros := piece.count(0):
                self.first_zero = self.first_zero if self.zeros else self.size + piece.index(0)
                self.zeros += zeros
            self.size += len(piece)
            if self.misfit is None and not (piece.isascii() and not decoder.getstate()[0]):
                self._decode(decoder, piece, False)
        if self.misfit is None and source.damage is None:  # a broken archive may end inside a character
            self._decode(decoder, b"", True)

    def _decode(self, decoder: codecs.IncrementalDecoder, piece: bytes, final: bool) -> None:
        try:
            decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            self.misfit = self.size - len(error.object) + error.start


def _first_misfit(source: Pieces, encoding: str) -> tuple[int, int] | None:
    """Offset and value of the first byte that does not fit, if there is one."""
    decoder, size = codecs.getincrementaldecoder(encoding)(), 0
    for piece in chain(source.pieces(), [b""]):
        if not piece and source.damage:
            break
        size += len(piece)
        try:
            decoder.decode(piece, not piece)
        except UnicodeDecodeError as error:
            return size - len(error.object) + error.start, error.object[error.start]
    return None


def _line_of_byte(source: Pieces, at: int) -> int:
    line, passed = 1, 0
    for piece in source.pieces():
        line += piece[: max(at - passed, 0)].count(b"\n")
        passed += len(piece)
        if passed >= at:
            break
    return line


def _utf16_by_zeros(head: bytes) -> str | None:
    """UTF-16 without a mark: text with any ASCII in it has zeros on one side of its byte pairs only."""
    sample = head[: len(head) & ~1]
    if len(sample) < 4:
        return None
    even, odd, pairs = sample[0::2].count(0), sample[1::2].count(0), len(sample) // 2
    if odd > pairs * 0.05 and even <= odd * 0.02:
        return "utf-16-le"
    if even > pairs * 0.05 and odd <= even * 0.02:
        return "utf-16-be"
    return None


def _damaged_or_legacy(source: Pieces, name: str, misfit: int) -> Decoding:
    damaged = TextStream(source, name, Decoding("utf-8", "surrogateescape"))
    filled = foreign = bad = characters = stray = 0
    for line in damaged.lines():
        filled += bool(line) and not line.isspace()
        if not line.isascii():
            foreign += 1
            bad += damaged.is_bad(line)
            strays = len(SURROGATE.findall(line))
            stray += strays
            characters += len(_FOREIGN.findall(line)) - strays
    if 1 - bad / max(foreign, 1) >= _UTF8_LINES or stray <= _STRAY_BYTES * characters:
        return damaged.decoding
    if found := _guess(_foreign_lines(source)):
        return _tolerant(source, found)
    if 2 * bad <= filled:
        return damaged.decoding
    line_number = _line_of_byte(source, misfit)
    raise DataError(
        f"the encoding could not be recognised (line {line_number} is not UTF-8)",
        where=f"{name}:{line_number}",
        hint="name it: data.encoding: gb18030 (or big5, shift_jis, cp1252, ...)",
    )


def _foreign_lines(source: Pieces) -> list[bytes]:
    """The first lines that are not ASCII, a sample's worth, wherever in the source they stand."""
    found, size = [], 0
    for line in _byte_lines(source):
        if not line.isascii():
            found.append(line[: _SAMPLE_BYTES - size])
            size += len(line)
            if size >= _SAMPLE_BYTES:
                break
    return found


def _byte_lines(source: Pieces) -> Iterator[bytes]:
    rest = b""
    for piece in source.pieces():
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
        if len(rest) > _SAMPLE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _guess(lines: list[bytes]) -> str | None:
    """The likeliest legacy encoding, from lines that are not ASCII."""
    from charset_normalizer import from_bytes

    best = from_bytes(b"\n".join(lines), cp_isolation=_LEGACY).best()
    if best is not None and best.encoding in _DOUBLE_BYTE:
        return best.encoding
    # A few damaged bytes make a double-byte text look like a single-byte one: judge the undamaged lines.
    for encoding in _DOUBLE_BYTE:
        whole = [line for line in lines if "\ufffd" not in line.decode(encoding, "replace")]
        if len(whole) >= _UTF8_LINES * len(lines):
            again = from_bytes(b"\n".join(whole), cp_isolation=_LEGACY).best()
            if again is not None and again.encoding == encoding:
                return encoding
    return best.encoding if best is not None else None
