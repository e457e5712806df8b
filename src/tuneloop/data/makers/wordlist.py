"""A list of synonyms by path: Cilin (``Aa01A01= 人 士 …``), or one group of words a line, separated by tabs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tuneloop.data.readers.encoding import decode
from tuneloop.errors import ConfigError

_CILIN = re.compile(r"[A-Z][a-z]\d\d[A-Z]\d\d([=#@])\s+(.*)")
"""Code of the extended 同义词词林 (HIT): ``=`` the words mean the same, ``#`` they are related, ``@`` the word stands alone."""


class Found(NamedTuple):
    """Characters [start, end) are a word of the list."""

    start: int
    end: int
    word: str


class WordList:
    """Words that mean the same.

    Args:
        groups: Words with the same meaning. A word that stands in several groups has several meanings and is left out.
    """

    def __init__(self, groups: list[list[str]]) -> None:
        self._group: dict[str, list[str] | None] = {}
        for group in groups:
            for word in dict.fromkeys(group):
                self._group[word] = None if word in self._group else group
        self._longest = max(map(len, self._group), default=0)

    def synonyms(self, word: str) -> list[str]:
        """The other words of its group that have no second meaning either; [] without any."""
        return [w for w in self._group.get(word) or () if w != word and self._group[w] is not None]

    def find(self, text: str) -> Iterator[Found]:
        """Words of the list in a text, segmented by longest match.

        Longest match from the left and from the right must agree: where they do not, the words may be other ones.
        """
        backward = set(self._backward(text))
        return (found for found in self._forward(text) if found in backward)

    def _forward(self, text: str) -> Iterator[Found]:
        at = 0
        while at < len(text):
            size = next((n for n in range(self._longest, 0, -1) if self._is_word(text, at, at + n)), 0)
            if size:
                yield Found(at, at + size, text[at : at + size])
            at += size or 1

    def _backward(self, text: str) -> Iterator[Found]:
        at = len(text)
        while at > 0:
            size = next((n for n in range(self._longest, 0, -1) if self._is_word(text, at - n, at)), 0)
            if size:
                yield Found(at - size, at, text[at - size : at])
            at -= size or 1

    def _is_word(self, text: str, start: int, end: int) -> bool:
        if start < 0 or end > len(text) or text[start:end] not in self._group:
            return False
        return not (_latin(text[start - 1 : start + 1]) or _latin(text[end - 1 : end + 1]))


def _latin(pair: str) -> bool:
    """Whether a boundary between two characters would cut a Latin word."""
    return len(pair) == 2 and pair.isascii() and pair.isalnum()


def read(path: Path) -> WordList:
    """Read a list in UTF-8 or, as Cilin is handed around, GB18030.

    Raises:
        ConfigError: There is no such file, or a line of it has another form.
        DataError: It is in neither encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=str(path), hint="word_list names a file in Cilin or tabular form"
        ) from None
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        lines = decode(data, str(path), "gb18030").lines
    return WordList([group for n, line in enumerate(lines, 1) if (group := _group(line, f"{path}:{n}"))])


def _group(line: str, where: str) -> list[str]:
    """The words of one line; [] where they do not mean the same."""
    line = line.strip()
    if found := _CILIN.fullmatch(line):
        return found[2].split() if found[1] == "=" else []
    if "\t" in line:
        return [word.strip() for word in line.split("\t") if word.strip()]
    if line and not line.startswith("#"):
        raise ConfigError(
            f"not a line of synonyms: {line[:40]!r}",
            where=where,
            hint="either Aa01A01= word word ...  or words with tabs between them; # begins a comment",
        )
    return []
