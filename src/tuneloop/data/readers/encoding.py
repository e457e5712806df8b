"""Bytes -> lines of text: byte-order mark, strict UTF-8, UTF-16 by its zero bytes, then detection."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from tuneloop.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the one of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY = (
    (b"PK\x03\x04", "a ZIP container (XLSX, DOCX, ...)", "save the sheet as CSV"),
    (b"\x1f\x8b", "gzip", "unpack it: gunzip -k FILE"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it: zstd -d FILE"),
    (b"PAR1", "Parquet", "save it as CSV or JSONL"),
    (b"%PDF", "a PDF", "save its text as .txt"),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "save the sheet as CSV"),
    (b"SQLite format 3\x00", "a SQLite database", "export the table as CSV"),
)
_DOUBLE_BYTE = ["gb18030", "cp932", "big5", "euc_jp", "euc_kr"]
_LEGACY = [*_DOUBLE_BYTE, "cp1252", "cp1251"]
_SAMPLE_BYTES = 256 * 1024
_LINE_END = re.compile(r"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF8_LINES = 0.8
"""A file is UTF-8 with damage, not another encoding, when this share of its non-ASCII lines is valid UTF-8."""


@dataclass(frozen=True, slots=True)
class Text:
    """A decoded file: its physical lines without line ends.

    ``bad_lines`` are the indices (from 0) of lines with bytes that the encoding does not know; these bytes stand there
    as ``\\xNN``.
    """

    lines: list[str]
    encoding: str
    bad_lines: frozenset[int]


def decode(data: bytes, name: str, encoding: str | None = None) -> Text:
    """Decode a file.

    Args:
        data: The whole file.
        name: What the file is called in messages.
        encoding: From the configuration: then nothing else is tried, and every byte must fit.

    Raises:
        DataError: The file is empty, not text, or does not have the encoding asked for.
    """
    if not data.strip():
        raise DataError("the file is empty", where=f"{name}:1", hint="check the export that wrote it")
    for magic, what, hint in _BINARY:
        if data.startswith(magic):
            raise DataError(f"this is {what}, not text", where=f"{name}:1", hint=hint)
    if encoding:
        return _decode_as_told(data, name, encoding)
    for mark, found in _BOMS:
        if data.startswith(mark):
            return _tolerant(data[len(mark) :], found)
    if wide := _utf16_by_zeros(data):
        return _tolerant(data, wide)
    zeros = data.count(0)
    if zeros > max(8, len(data) // 100):
        line = data[: data.index(0)].count(b"\n") + 1
        raise DataError(
            f"this is not text: {zeros:,} zero bytes, the first in line {line}",
            where=f"{name}:{line}",
            hint="name the encoding (data.encoding: utf-16-le) or export the file as UTF-8 text",
        )
    return _utf8_or_legacy(data, name)


def replace_surrogates(text: str) -> str:
    """Half a character (from ``\\ud83d`` in JSON) cannot be stored: it becomes U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _decode_as_told(data: bytes, name: str, encoding: str) -> Text:
    try:
        return Text(split_lines(data.decode(encoding).removeprefix("\ufeff")), encoding, frozenset())
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"byte 0x{data[error.start]:02x} in line {line} is not {encoding}",
            where=f"{name}:{line}",
            hint="leave data.encoding out to have it detected",
        ) from None


def split_lines(text: str) -> list[str]:
    """Physical lines; a line end at the very end does not begin another line."""
    lines = _LINE_END.split(text)
    if lines[-1] == "":
        lines.pop()
    return lines


def _tolerant(data: bytes, encoding: str) -> Text:
    """Decode with the bytes that do not fit marked, line by line."""
    if encoding != "utf-8":
        lines = split_lines(data.decode(encoding, "replace"))
        return Text(lines, encoding, frozenset(i for i, line in enumerate(lines) if "\ufffd" in line))
    lines = split_lines(data.decode("utf-8", "surrogateescape"))
    bad = frozenset(i for i, line in enumerate(lines) if not line.isascii() and _SURROGATE.search(line))
    for i in bad:
        lines[i] = lines[i].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return Text(lines, encoding, bad)


def _utf16_by_zeros(data: bytes) -> str | None:
    """UTF-16 without a mark: text with any ASCII in it has zeros on one side of its byte pairs only."""
    sample = data[: _SAMPLE_BYTES & ~1]
    if len(sample) < 4:
        return None
    even, odd, pairs = sample[0::2].count(0), sample[1::2].count(0), len(sample) // 2
    if odd > pairs * 0.05 and even <= odd * 0.02:
        return "utf-16-le"
    if even > pairs * 0.05 and odd <= even * 0.02:
        return "utf-16-be"
    return None


def _utf8_or_legacy(data: bytes, name: str) -> Text:
    try:
        return Text(split_lines(data.decode("utf-8")), "utf-8", frozenset())
    except UnicodeDecodeError as error:
        first_bad = data[: error.start].count(b"\n") + 1
    damaged = _tolerant(data, "utf-8")
    foreign = sum(not line.isascii() for line in damaged.lines) + sum(
        damaged.lines[i].isascii() for i in damaged.bad_lines
    )
    if 1 - len(damaged.bad_lines) / max(foreign, 1) >= _UTF8_LINES:
        return damaged
    found = _guess(data)
    if found is not None:
        return _tolerant(data, found)
    if 2 * len(damaged.bad_lines) <= sum(bool(line.strip()) for line in damaged.lines):
        return damaged
    raise DataError(
        f"the encoding could not be recognised (line {first_bad} is not UTF-8)",
        where=f"{name}:{first_bad}",
        hint="name it: data.encoding: gb18030 (or big5, shift_jis, cp1252, ...)",
    )


def _guess(data: bytes) -> str | None:
    """The likeliest legacy encoding, from the lines that are not ASCII."""
    from charset_normalizer import from_bytes

    lines = [line for line in data[:_SAMPLE_BYTES].split(b"\n")[:-1] or [data] if not line.isascii()] or [data]
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
