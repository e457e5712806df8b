"""Unsafe sentences: listed words, and insults as a small classifier judges them. Sentence by sentence, as the text comes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from tuneloop.data import offensive
from tuneloop.errors import ConfigError
from tuneloop.serve.filters.config import UnsafeConfig
from tuneloop.serve.filters.text import Found

TAG = "[UNSAFE]"
LONGEST_SENTENCE_CHARACTERS = 240
"""A longer sentence is judged in pieces; so many characters are held back at most."""
LONGEST_WORD_CHARACTERS = 64
LONGEST_MATCH_CHARACTERS = 120
"""Of a listed phrase, with what may stand between its characters."""
BUILT_IN = Path(__file__).parent / "words"

_END = re.compile(r"[。！？!?\n]|\.\s")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_BETWEEN_HAN = r"[\s*·.,，_\-\u200b-\u200d]?"
_HAN = re.compile(r"[\u3400-\u9fff]")


class Unsafe:
    """A ``Finder``: a listed word where it stands, an insult as its whole sentence.

    A sentence ends behind 。！？!? or a line end, or at a full stop with a space. Of one with no end in
    ``LONGEST_SENTENCE_CHARACTERS`` the beginning is judged by itself; a listed phrase across that cut is found all the same.
    """

    name = "unsafe"

    def __init__(self, config: UnsafeConfig) -> None:
        self._config = config
        self._words = pattern(config.built_in_words, config.words)
        self._text, self._base = "", 0
        self._words_to = 0  # characters of the text in which listed words have been found

    @property
    def settled(self) -> int:
        return self._base

    def feed(self, text: str, final: bool = False) -> Sequence[Found]:
        self._text += text
        found: list[Found] = []
        while self._text:
            end, longest = _END.search(self._text, 0, LONGEST_SENTENCE_CHARACTERS), len(self._text)
            if end:
                found += self._judge(end.end(), end.end())
            elif longest >= LONGEST_SENTENCE_CHARACTERS:
                found += self._judge(self._cut(), LONGEST_SENTENCE_CHARACTERS)
            elif final:
                found += self._judge(longest, longest)
            else:
                break
        return sorted(found)

    def _cut(self) -> int:
        """Where a sentence without an end is cut: behind a space, so far before its end that a phrase at the cut is known."""
        last = LONGEST_SENTENCE_CHARACTERS - LONGEST_MATCH_CHARACTERS
        space = self._text.rfind(" ", last // 2, last)
        return space + 1 if space >= 0 else last

    def _judge(self, size: int, known: int) -> list[Found]:
        """The first ``size`` characters are a sentence; a word that begins there ends within ``known``."""
        sentence, base = self._text[:size], self._base
        found: list[Found] = []
        if self._words:
            folded = self._text[:known].translate(_FULL_WIDTH)
            for match in self._words.finditer(folded):
                if match.start() >= size:
                    break
                found.append(Found(base + match.start(), base + match.end(), TAG))
        if self._config.classifier and self._insults(sentence):
            end = len(sentence.rstrip())
            found.append(Found(base + end - len(sentence.strip()), base + end, TAG))
        self._text, self._base = self._text[size:], base + size
        return found

    def _insults(self, sentence: str) -> bool:
        chinese, english = offensive(sentence)
        return chinese >= self._config.threshold_zh or english >= self._config.threshold_en


@lru_cache(maxsize=16)
def pattern(built_in: bool, files: tuple[Path, ...]) -> re.Pattern[str] | None:
    """Matches any of the listed words: Latin ones whole and in any letter case, Chinese ones anywhere.

    Raises:
        ConfigError: A list cannot be read.
    """
    paths = (*(sorted(BUILT_IN.glob("*.txt")) if built_in else ()), *files)
    words = {word for path in paths for word in read_words(path)}
    return re.compile("|".join(map(_one, sorted(words, key=lambda w: (-len(w), w)))), re.IGNORECASE) if words else None


def _one(word: str) -> str:
    if _HAN.search(word):
        return _BETWEEN_HAN.join(map(re.escape, word.replace(" ", "")))
    inner = r"\s{1,3}".join(re.escape(part).replace("'", "['’]") for part in word.split())
    return rf"(?<![A-Za-z0-9]){inner}(?![A-Za-z0-9])"


def read_words(path: Path) -> tuple[str, ...]:
    """The entries of a list.

    Raises:
        ConfigError: It cannot be read, or an entry is too long.
    """
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "this list of words cannot be read as UTF-8 text", where=str(path), hint="check filters.unsafe.words"
        ) from error
    words = tuple(w for line in lines if (w := line.strip().translate(_FULL_WIDTH)) and not w.startswith("#"))
    if long := next((w for w in words if not _fits(w)), None):
        raise ConfigError(
            f"an entry has more than {LONGEST_WORD_CHARACTERS} characters: {long[:20]}...",
            where=str(path),
            hint="list words and short phrases",
        )
    return words


def _fits(word: str) -> bool:
    """Whether a match of it is never longer than ``LONGEST_MATCH_CHARACTERS``, with what stands between."""
    return len(word) <= LONGEST_WORD_CHARACTERS and 2 * len(word) <= LONGEST_MATCH_CHARACTERS + (
        0 if _HAN.search(word) else LONGEST_WORD_CHARACTERS
    )
