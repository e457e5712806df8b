"""Logprobs beside filtered text: a token comes out only when all of its characters have gone out unchanged.

Bytes of a token are text, and so are its alternatives. Where a filter replaces or withholds text, the entries of that text
are dropped; so are those of characters that stand in neither content nor reasoning (tags, calls), and alternatives that in
their place would complete what the filters look for.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from tuneloop.serve.filters.text import Check
from tuneloop.serve.logprobs import LogprobQueue, TokenLogprob

BEFORE_CHARACTERS = 256
"""How much text before an alternative is looked at together with it."""


class _Place:
    """Where a piece of a part stands in the raw text of the answer."""

    def __init__(self, start: int, size: int, raw: int, exact: bool) -> None:
        self.start, self.end, self.raw, self.exact = start, start + size, raw, exact


class GuardedLogprobs(LogprobQueue):
    """See the module. Raw text is what passed the stop strings; parts of it arrive, in order, as content and reasoning.

    Args:
        checks: Finders of what must not go out, new ones each time.
    """

    def __init__(self, checks: Callable[[], Sequence[Check]]) -> None:
        super().__init__()
        self._checks = checks
        self._raw = ""
        self._shown = bytearray()  # per character of the raw text: whether it went out unchanged
        self._cursor = 0  # no part that is still to come begins before it
        self._lost = self._finished = False
        self._places: dict[str, deque[_Place]] = {}
        self._groups: deque[tuple[int, int, list[TokenLogprob]]] = deque()
        self._open: list[TokenLogprob] = []  # tokens whose last character is not complete
        self._from = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def token(self, entry: TokenLogprob, text: str) -> None:
        """Tokens that share a character stand or fall together."""
        self._read += len(text)
        self._open.append(entry)
        self._utf8.decode(entry.token)
        if self._read > self._from and not self._utf8.getstate()[0]:
            self._groups.append((self._from, self._read, self._open))
            self._from, self._open = self._read, []

    def text(self, text: str) -> None:
        self._raw += text
        self._shown += bytes(len(text))

    def came(self, kind: str, start: int, text: str, after: int) -> None:
        """A piece of a part came to the filters.

        Args:
            kind: Of the part.
            start: Characters of this kind before it.
            text: The piece.
            after: Characters of raw text that came with it and surely stand behind it.
        """
        until = len(self._raw) - after
        at = -1 if self._lost else self._raw.find(text, self._cursor, until)
        if at < 0:  # a stage rewrote the text: nothing is known any more, so nothing is shown
            self._lost, at = True, self._cursor
        exact = not self._lost and self._raw.rfind(text, self._cursor, until) == at
        self._places.setdefault(kind, deque()).append(_Place(start, len(text), at, exact))
        self._cursor = at + len(text)

    def passed(self, kind: str, start: int, end: int) -> None:
        """Characters [start, end) of this kind went out unchanged."""
        for place in self._places.get(kind, ()):
            low, high = max(start, place.start), min(end, place.end)
            if low < high and place.exact:
                at = place.raw + low - place.start
                self._shown[at : at + high - low] = b"\1" * (high - low)

    def decided(self, kind: str, until: int) -> None:
        """It is known what becomes of the characters of this kind before a position."""
        places = self._places.get(kind)
        while places and places[0].end <= until:
            places.popleft()
        if places and places[0].start < until:
            first = places[0]
            first.raw, first.start = first.raw + until - first.start, until

    def finish(self) -> None:
        self._finished = True
        if self._open:
            end = max(self._read, len(self._raw) if self._utf8.getstate()[0] else self._read)
            self._groups.append((self._from, end, self._open))
            self._open = []

    def take(self) -> list[TokenLogprob]:
        out: list[TokenLogprob] = []
        known = min([self._cursor, *(places[0].raw for places in self._places.values() if places)])
        while self._groups and (self._finished or self._groups[0][1] <= known):
            start, end, entries = self._groups.popleft()
            if end <= len(self._raw) and all(self._shown[start:end]):
                out += [
                    self._harmless(entry, self._raw[max(0, start - BEFORE_CHARACTERS) : start]) for entry in entries
                ]
        return out

    def _harmless(self, entry: TokenLogprob, before: str) -> TokenLogprob:
        """Without the alternatives that must not be read here."""
        if not entry.top:
            return entry
        top = tuple((t, p) for t, p in entry.top if t == entry.token or not self._found(before, t))
        return replace(entry, top=top)

    def _found(self, before: str, token: bytes) -> bool:
        said = before + token.decode("utf-8", "replace")
        return any(f.end > len(before) for c in self._checks() for f in c.finder.feed(said, final=True))
