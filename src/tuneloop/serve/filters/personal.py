"""Personal data, found by the data room's own detectors, as the text comes."""

from __future__ import annotations

from collections.abc import Sequence

from tuneloop.data import personal
from tuneloop.serve.filters.config import PersonalDataConfig
from tuneloop.serve.filters.text import Found

HELD_AT_MOST_CHARACTERS = personal.WINDOW + 8
"""An unbroken word of ``WINDOW`` characters may become one long key; in prose the last word waits, in Chinese hardly ever one."""


class PersonalData:
    """A ``Finder``. A text gets the tags that ``data.personal.mask`` gives it, however it is cut."""

    name = "personal_data"

    def __init__(self, config: PersonalDataConfig) -> None:
        self._types = frozenset(config.types)
        self._scanner = personal.Scanner(personal.Rules(config.regions, config.private_ips))
        self._wanted = False

    @property
    def settled(self) -> int:
        return self._scanner.settled

    def feed(self, text: str, final: bool = False) -> Sequence[Found]:
        found: list[Found] = []
        for span in self._scanner.feed(text, final):
            begins = span.type != personal.CONTINUED
            self._wanted = span.type in self._types if begins else self._wanted
            if self._wanted:
                found.append(Found(span.start, span.end, f"[{span.type}]" if begins else ""))
        return found
