"""Replacing what was found: by type tags or pseudonyms, in whole texts and in streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tuneloop.data.personal.piece import Rules
from tuneloop.data.personal.pseudonyms import SECRET_CHARACTERS, Pseudonyms
from tuneloop.data.personal.scan import CONTINUED, REGIONS, TYPES, Scanner, Span, find
from tuneloop.data.personal.segments import fold

Replace = Callable[[str, str], str]
"""(type, folded value) -> what stands in its place."""


def tag(kind: str, value: str) -> str:
    """``[EMAIL]``."""
    return f"[{kind}]"


def replacement(key: bytes | None) -> Replace:
    """Pseudonyms under a key, or type tags without one.

    Raises:
        ConfigError: The key is too short.
    """
    return tag if key is None else Pseudonyms(key).of


def mask(
    text: str, spans: Sequence[Span] | None = None, *, regions: Sequence[str] = REGIONS, replace: Replace = tag
) -> str:
    """The text with each span (default: all that is found) replaced, by default by its type tag, e.g. ``[EMAIL]``."""
    found = find(text, regions=regions) if spans is None else spans
    if not found:
        return text
    out, at, folded = [], 0, fold(text)
    for span in found:
        out += [text[at : span.start], replace(span.type, folded[span.start : span.end])]
        at = span.end
    return "".join([*out, text[at:]])


class Masker:
    """Masks text that comes in pieces, with the same result as for the whole, however it is cut.

    ``feed`` returns what is certain and holds back what may still become personal data or be part of it: in prose the last
    word, in digits the last group, never more than ``held_at_most`` characters. Not for names: they need the sentence.

    Args:
        types: Which of ``TYPES`` to replace.
        regions: ISO 3166 codes of countries whose national telephone numbers are known without a country code.
        key: For pseudonyms, at least 16 bytes; without one, type tags.
        private_ips: Also addresses of private networks.

    Raises:
        ConfigError: The key is too short.
    """

    def __init__(
        self,
        types: Sequence[str] = TYPES,
        regions: Sequence[str] = REGIONS,
        *,
        key: bytes | None = None,
        private_ips: bool = True,
    ) -> None:
        self._types = frozenset(types)
        self._rules = Rules(tuple(regions), private_ips)
        self._replace = replacement(key)
        self.found: Counter[str] = Counter()
        """Type -> how many were replaced so far."""
        self._begin()

    def _begin(self) -> None:
        self._scanner = Scanner(self._rules)
        self._pending = ""
        self._open: tuple[str, str] | None = None  # a secret that goes on: its type, and its beginning

    @property
    def held(self) -> int:
        """Characters that are held back now."""
        return len(self._pending)

    def feed(self, text: str) -> str:
        """Take the next piece; return what can be shown."""
        return self._settle(text, final=False)

    def finish(self) -> str:
        """Return the rest; the next ``feed`` begins another text."""
        rest = self._settle("", final=True)
        self._begin()
        return rest

    def _settle(self, text: str, final: bool) -> str:
        base, at = self._scanner.settled, 0
        self._pending += text
        out = list[str]()
        for span in self._scanner.feed(text, final):
            start, end = span.start - base, span.end - base
            value = fold(self._pending[start:end])
            if span.type == CONTINUED and self._open:
                kind, begun = self._open
                self._open = kind, (begun + value)[:SECRET_CHARACTERS]
                at = end
            elif span.type in self._types:
                out += [self._close(), self._pending[at:start]]
                self._open, at = (span.type, value), end
        settled = self._scanner.settled - base
        if settled > at or not self._scanner.swallowing:
            out.append(self._close())
        out.append(self._pending[at:settled])
        self._pending = self._pending[settled:]
        return "".join(out)

    def _close(self) -> str:
        """What stands for the last datum, once its end is known."""
        if not self._open:
            return ""
        (kind, value), self._open = self._open, None
        self.found[kind] += 1
        return self._replace(kind, value)
