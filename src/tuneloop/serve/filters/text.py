"""One text on its way through the filters: what they find in it is replaced, blocked or noted, nothing else waits.

What comes out depends on the text, not on the pieces in which it came: a position is passed only when every filter that
may change the text has said that it will find nothing more before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from tuneloop.serve.filters.config import Action

T = TypeVar("T")


class Found(NamedTuple):
    """Characters [start, end) of all text that was fed. ``tag`` stands in their place; '' continues the one before."""

    start: int
    end: int
    tag: str


class Finder(Protocol):
    """Looks for something in a text that comes in pieces."""

    name: str
    """Of the filter, in metrics and bodies."""

    @property
    def settled(self) -> int:
        """Characters about which nothing more will be found."""
        ...

    def feed(self, text: str, final: bool = False) -> Sequence[Found]:
        """What became certain, in order of position."""
        ...


class Check(NamedTuple):
    """A finder and what happens to what it finds."""

    finder: Finder
    action: Action


Hits = Counter[tuple[str, Action]]
"""(filter, action) -> how many were found."""


class _Event(NamedTuple, Generic[T]):
    start: int
    order: int
    end: int
    tag: str
    check: Check | None
    mark: T | None = None


class FilteredText(Generic[T]):
    """One text while it arrives.

    Args:
        checks: What is looked for; of two that begin at one place the first gives the tag.
        hits: Counts what is found.
        emit: Takes the text that can go on.
        passed: Is told which characters [start, end) went out unchanged.
        on_mark: Takes a mark when its turn comes; False ends the text there.
    """

    def __init__(
        self,
        checks: Iterable[Check],
        hits: Hits,
        emit: Callable[[str], object],
        passed: Callable[[int, int], object] = lambda start, end: None,
        on_mark: Callable[[T], bool] = lambda mark: True,
    ) -> None:
        self._checks = tuple(checks)
        self._holding = [c.finder for c in self._checks if c.action != "flag"]
        self._hits, self._emit, self._passed, self._on_mark = hits, emit, passed, on_mark
        self._text, self._base = "", 0
        self._events: list[_Event[T]] = []
        self.at = 0
        """Characters that were let through, replaced or blocked."""
        self.blocked = False
        """The text ended at something that must not be there."""

    @property
    def fed(self) -> int:
        """Characters that came so far."""
        return self._base + len(self._text)

    @property
    def held(self) -> int:
        """Characters that wait now."""
        return 0 if self.blocked else self.fed - self.at

    def mark(self, what: T) -> None:
        """Put something between the characters fed so far and the next; ``on_mark`` gets it when its turn comes."""
        self._events.append(_Event(self.fed, -1, self.fed, "", None, what))

    def feed(self, text: str, final: bool = False) -> None:
        """Emit what can go on now; nothing once it is blocked."""
        if self.blocked:
            return
        self._text += text
        for order, check in enumerate(self._checks):
            for found in check.finder.feed(text, final):
                self._events.append(_Event(found.start, order, found.end, found.tag, check))
        self._events.sort(key=lambda e: e[:2])
        limit = self.fed if final or not self._holding else min(f.settled for f in self._holding)
        while self._events and not self.blocked and self._due(self._events[0], limit):
            self._take(self._events.pop(0))
        if not self.blocked:
            self._pass(limit)
        self._text, self._base = self._text[self.at - self._base :], self.at

    def _due(self, event: _Event[T], limit: int) -> bool:
        return event.start < limit or (event.check is None and event.start == limit)

    def _take(self, event: _Event[T]) -> None:
        if event.check is None:
            self._pass(event.start)
            self.blocked = event.mark is not None and not self._on_mark(event.mark)
            return
        finder, action = event.check
        if event.tag:
            self._hits[finder.name, action] += 1
        if action == "flag":
            return
        fresh = event.start >= self.at
        self._pass(event.start)
        if action == "block":
            self.blocked = True
            return
        if fresh and event.tag:
            self._emit(event.tag)
        self.at = max(self.at, event.end)

    def _pass(self, until: int) -> None:
        """Let the text through, up to a position."""
        if until > self.at:
            self._emit(self._text[self.at - self._base : until - self._base])
            self._passed(self.at, until)
            self.at = until


def whole(text: str, checks: Iterable[Check], hits: Hits) -> str | None:
    """A text that is there as a whole; None where it must not go on."""
    out: list[str] = []
    through = FilteredText[None](checks, hits, out.append)
    through.feed(text, final=True)
    return None if through.blocked else "".join(out)
