"""A text read forward: pieces or lines, never the whole. Memory holds one piece and one line."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from tuneloop.data.readers.unpack import Pieces
from tuneloop.data.rows import READ, RawRow
from tuneloop.errors import DataError

LONGEST = 16 * 1024 * 1024
"""Characters in one line, one quoted CSV row or one JSON element; a longer one is dropped with the reason. A bound of
memory: no row of 16 million characters fits any model."""
_KEPT_OF_LONG = 1_000
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How bytes become text.

    ``errors`` is what happens to bytes that do not fit: ``strict`` where every byte is known to fit,
    ``surrogateescape`` in damaged UTF-8, ``replace`` in a damaged or guessed other encoding.
    """

    encoding: str
    errors: str = "strict"


class TextStream:
    """The text of a source. Every walk begins at the first character; line ends are ``\\n`` whatever they were."""

    def __init__(self, source: Pieces, name: str, decoding: Decoding) -> None:
        self._source, self.name, self.decoding = source, name, decoding
        self.encoding = decoding.encoding
        self._cut = ""

    def pieces(self) -> Iterator[str]:
        """
        Raises:
            DataError: The file has changed since its encoding was found, or cannot be read any more.
        """
        inner = codecs.getincrementaldecoder(self.encoding)(self.decoding.errors)
        decoder = io.IncrementalNewlineDecoder(inner, translate=True)
        at_start = True
        try:
            for data in chain(self._source.pieces(), [b""]):
                text = decoder.decode(data, not data)
                if at_start and text:
                    text, at_start = text.removeprefix("\ufeff"), False
                if text:
                    yield text
        except UnicodeError:
            if self._source.damage:
                return  # the archive broke off inside a character
            raise DataError(
                f"the file is no longer {self.encoding}: it changed while it was read",
                where=self.name,
                hint="run again when nothing writes to it",
            ) from None

    def batches(self) -> Iterator[list[str]]:
        """Lines without their ends, as many as a piece ends. A line end at the very end begins no further line.

        Of a line that is too long a little more than ``LONGEST`` characters are kept. In a damaged archive the last,
        unfinished line is left to ``cut_off``.
        """
        held, size = list[str](), 0
        self._cut = ""
        for text in self.pieces():
            lines = text.split("\n")
            if size <= LONGEST:
                held.append(lines[0])
            size += len(lines[0])
            if len(lines) > 1:
                lines[0] = "".join(held)[: LONGEST + 1]
                held = [lines.pop()]
                size = len(held[0])
                yield lines
        last = "".join(held)[: LONGEST + 1]
        if self._source.damage:
            self._cut = last
        elif last:
            yield [last]

    def lines(self) -> Iterator[str]:
        return chain.from_iterable(self.batches())

    def cut_off(self, line: int) -> Iterator[RawRow]:
        """After the last line: the row that says why an archive ended there."""
        if self._source.damage:
            yield RawRow(line, self.shown(self._cut), problem=(READ, self._source.damage))

    @property
    def damage(self) -> str | None:
        """Why the source ended early, once it has."""
        return self._source.damage

    def problem(self, raw: str) -> tuple[str, str] | None:
        """Why a row cannot be used whatever it says: a zero byte, bytes of another encoding, endless length."""
        if "\x00" in raw:
            return READ, "zero byte: the row holds byte 0x00"
        if self.decoding.errors != "strict" and self.is_bad(raw):
            return READ, f"wrong encoding: bytes that are not {self.encoding}"
        if len(raw) > LONGEST:
            return READ, f"too long: more than {LONGEST:,} characters without an end"
        return None

    def is_bad(self, raw: str) -> bool:
        """Whether bytes in it did not fit the encoding."""
        if self.decoding.errors == "surrogateescape":
            return not raw.isascii() and SURROGATE.search(raw) is not None
        return "\ufffd" in raw

    def shown(self, raw: str) -> str:
        """A row as the ledger keeps it: bytes that do not fit UTF-8 as ``\\xNN``, of an endless one the beginning."""
        if len(raw) > LONGEST:
            raw = raw[:_KEPT_OF_LONG]
        if self.decoding.errors == "surrogateescape" and not raw.isascii():
            return raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return raw
