"""Finding spans in text that comes in pieces; a whole text is one piece.

The result does not depend on how the text is cut: a segment is judged when its end is known, with what stands before it, and
with nothing of what follows. Of a segment longer than ``WINDOW`` characters the window is judged; what begins in its first half
counts, and the rest is a segment of its own. So at most ``WINDOW`` characters and a few spaces are ever held back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tuneloop.data.personal import hints, network, numbers, phones, pseudonyms, segments
from tuneloop.data.personal.context import CONTEXT
from tuneloop.data.personal.piece import Detector, Piece, Rules

WINDOW = 512

DETECTORS: dict[str, Detector] = {
    "SECRET": network.secrets,
    "URL_SECRET": network.url_secrets,
    "EMAIL": network.emails,
    "IP": network.ips,
    "ID_CARD": numbers.id_cards,
    "IBAN": numbers.ibans,
    "CREDIT_CODE": numbers.credit_codes,
    "CARD": numbers.cards,
    "PASSPORT": numbers.passports,
    "US_SSN": numbers.social_security_numbers,
    "PLATE": numbers.plates,
    "PHONE": phones.phones,
}
"""In order of certainty: where two would overlap, the earlier one holds."""
FEWEST_DIGITS = {"ID_CARD": 15, "IBAN": 7, "CREDIT_CODE": 7, "CARD": 12, "PASSPORT": 7, "US_SSN": 9, "PHONE": 7}
"""A segment with fewer digits is not shown to the detector."""
_TABLE = [(kind, detector, FEWEST_DIGITS.get(kind, 0)) for kind, detector in DETECTORS.items()]
TYPES = tuple(DETECTORS)
REGIONS = ("GB", "US", "CN")
"""Where numbers without a country code may come from."""

SHORTEST = 6
"""Characters of the shortest personal datum, ``a@b.cn``."""

_BLANK = re.compile(r"[\s\\]{1,8}")


class Span(NamedTuple):
    """Characters [start, end) are of this type."""

    type: str
    start: int
    end: int


CONTINUED = ""
"""Type of a span that continues the one before it, in a stream."""


def find(
    text: str, types: Sequence[str] = TYPES, regions: Sequence[str] = REGIONS, private_ips: bool = True
) -> list[Span]:
    """Personal data in a text, by position, without overlaps.

    Args:
        types: Which of ``TYPES`` to report. The others are still recognised, so that no part of one is taken for another.
        regions: ISO 3166 codes of countries whose national telephone numbers are known without a country code.
        private_ips: Also addresses of private networks.
    """
    if not hints.any_in(text):
        return []
    spans: list[Span] = []
    for span in Scanner(Rules(tuple(regions), private_ips)).feed(text, final=True):
        if span.type != CONTINUED:
            spans.append(span)
        else:
            spans[-1] = spans[-1]._replace(end=span.end)
    return [span for span in spans if span.type in types]


class Scanner:
    """Text in, spans out, by position in all text that was fed.

    Args:
        rules: What to look for.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._raw = self._text = ""  # the context, then what is not settled; as it is, and folded
        self._at = 0
        self._offset = 0
        self._tail: re.Pattern[str] | None = None

    @property
    def settled(self) -> int:
        """Characters about which nothing more will be found."""
        return self._offset + self._at

    @property
    def swallowing(self) -> bool:
        """Whether the last span may still go on."""
        return self._tail is not None

    def feed(self, text: str, final: bool = False) -> list[Span]:
        """What became certain, in order of position."""
        cut = max(0, self._at - CONTEXT)
        self._raw = self._raw[cut:] + text
        self._text = self._text[cut:] + segments.fold(text)
        self._at, self._offset = self._at - cut, self._offset + cut
        return [s._replace(start=s.start + self._offset, end=s.end + self._offset) for s in self._scan(final)]

    def _scan(self, final: bool) -> Iterator[Span]:
        """Spans by position in the buffer; moves ``_at``."""
        places = [*hints.places(self._raw, self._at), (len(self._text), len(self._text) + 1)]
        for start, end in places:
            if start > self._at and not self._tail:
                self._at = segments.border_before(self._text, self._at, start)
            while self._at < end:
                yield from self._swallow(final)
                if self._tail:
                    return
                found = segments.following(self._text, self._at, WINDOW)
                if not found:
                    self._at = len(self._text)
                    return
                if found.end() - found.start() > WINDOW:
                    yield from self._judge_window(found.start())
                elif final or len(self._text) - found.end() >= 3 or segments.ended(found):
                    self._at = found.end()
                    if self._at > start:
                        yield from self._judge(*found.span())
                else:
                    self._at = found.start()
                    return

    def _judge(self, start: int, end: int) -> Iterator[Span]:
        if self._suspect(start, end):
            yield from self._spans(start, end)

    def _judge_window(self, start: int) -> Iterator[Span]:
        end = start + WINDOW
        self._at = half = start + WINDOW // 2
        for span in self._spans(start, end) if self._suspect(start, end) else ():
            if span.start >= half:
                return
            yield span
            self._at = max(half, span.end)
            if span.end == end and span.type in ("SECRET", "URL_SECRET") and not self._tail:
                self._tail = network.TOKEN_TAIL

    def _suspect(self, start: int, end: int) -> bool:
        if end - start < SHORTEST:
            return False
        return hints.below_key(self._raw, start) or hints.any_in(self._raw, start, end)

    def _spans(self, start: int, end: int) -> list[Span]:
        """What is in the segment [start, end) of the buffer; a private key goes on in the segments after it."""
        cut = max(0, start - CONTEXT)
        piece = Piece(self._text[cut:end], start - cut, self._rules)
        if key := network.private_key(piece):
            self._tail, self._at = network.PEM_TAIL, cut + key[1]
            return [Span("SECRET", cut + key[0], cut + key[1])]
        for found in pseudonyms.FORM.finditer(piece.text, piece.at):
            piece.take(*found.span())
        spans, known = list[Span](), -1
        # What stood against something that is taken now may be seen only after it.
        while known < 0 or (len(spans) > known and hints.any_in(piece.text, piece.at)):
            known = len(spans)
            digits = piece.digits
            for kind, detector, fewest in _TABLE:
                if digits >= fewest:
                    for first, last in detector(piece):
                        piece.take(first, last)
                        spans.append(Span(kind, cut + first, cut + last))
                        digits = piece.digits
        return sorted(spans, key=lambda span: span.start)

    def _swallow(self, final: bool) -> Iterator[Span]:
        """What continues a secret that was begun."""
        if not self._tail:
            return
        found = self._tail.match(self._text, self._at)
        if found and found.end() > self._at:
            yield Span(CONTINUED, self._at, found.end())
            self._at = found.end()
        undecided = _BLANK.fullmatch(self._text, self._at) if self._tail is network.PEM_TAIL else None
        if final or (self._at < len(self._text) and not undecided):
            self._tail = None
            # What follows must not look back at the secret, as it does not look back at a tag.
            self._text = self._text[: self._at - 1] + "\0" + self._text[self._at :]
