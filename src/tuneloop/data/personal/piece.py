"""What a detector sees: one segment, with the text before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tuneloop.data.personal import context

_NO_DIGITS = re.compile("[^0-9]+")


class Rules(NamedTuple):
    """What to look for.

    Args:
        regions: ISO 3166 codes of countries whose national telephone numbers are known without a country code.
        private_ips: Also addresses of private networks (10.0.0.0/8, 192.168.0.0/16, fc00::/7 and their like).
    """

    regions: Sequence[str] = ()
    private_ips: bool = True


class Piece:
    """Folded text in which what was found is blanked out, so that the next detector does not see it.

    Args:
        text: Up to ``context.CONTEXT`` characters of context, then the segment, up to the end.
        at: Where the segment begins; a match may look back beyond it, never begin there.
        rules: What to look for.
    """

    __slots__ = ("_digits", "at", "rules", "text")

    def __init__(self, text: str, at: int, rules: Rules) -> None:
        self.text, self.at, self.rules = text, at, rules
        self._digits = -1

    @property
    def digits(self) -> int:
        """How many digits are left in the segment."""
        if self._digits < 0:
            self._digits = len(_NO_DIGITS.sub("", self.text[self.at :]))
        return self._digits

    def has(self, character: str) -> bool:
        """Whether a character is left in the segment."""
        return self.text.find(character, self.at) >= 0

    def take(self, start: int, end: int) -> None:
        """Blank out characters [start, end)."""
        self._digits = -1
        self.text = self.text[:start] + "\0" * (end - start) + self.text[end:]

    def says(self, pattern: re.Pattern[str], at: int, reach: int = context.REACH) -> bool:
        """Whether the words before a position match."""
        return context.says(pattern, self.text, at, reach)


Found = Iterator[tuple[int, int]]
Detector = Callable[[Piece], Found]
"""Yields [start, end) in ``piece.text``; what it yields is taken before it goes on."""
