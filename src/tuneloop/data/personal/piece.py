"""What a detector sees: one segment, with the text before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tuneloop.data.personal import context

_SEVEN_DIGITS = re.compile("(?:[0-9][^0-9]*+){7}")


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

    __slots__ = ("_numeric", "at", "rules", "text")

    def __init__(self, text: str, at: int, rules: Rules) -> None:
        self.text, self.at, self.rules = text, at, rules
        self._numeric: bool | None = None

    @property
    def numeric(self) -> bool:
        """Whether seven digits are left, the fewest of any number."""
        if self._numeric is None:
            self._numeric = _SEVEN_DIGITS.search(self.text, self.at) is not None
        return self._numeric

    def take(self, start: int, end: int) -> None:
        """Blank out characters [start, end)."""
        self._numeric = None
        self.text = self.text[:start] + "\0" * (end - start) + self.text[end:]

    def says(self, pattern: re.Pattern[str], at: int, reach: int = context.REACH) -> bool:
        """Whether the words before a position match."""
        return context.says(pattern, self.text, at, reach)


Found = Iterator[tuple[int, int]]
Detector = Callable[[Piece], Found]
"""Yields [start, end) in ``piece.text``; what it yields is taken before it goes on."""
