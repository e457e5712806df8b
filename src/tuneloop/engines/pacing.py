"""How often an engine hands on what it has made.

An event on its way to a client costs the gateway some work, and on a CPU that work is taken from the engine's own cores:
one token at a time cost SmolLM2-135M on two cores a tenth to a fifth of its tokens a second (``benchmarks/serve.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuneloop.types import TokenEvent


class Paced:
    """Lets the first token and the end of an answer pass at once, and what lies between at most every ``interval_s``.

    Args:
        interval_s: 0 lets everything pass at once.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._begun: set[str] = set()
        self._waiting: list[TokenEvent] = []
        self._due = 0.0

    def take(self, events: Sequence[TokenEvent], now: float) -> list[TokenEvent]:
        """What goes on now.

        Args:
            events: What has just come.
            now: ``time.monotonic()``.
        """
        urgent = False
        for event in events:
            if event.finish:
                urgent = True
                self._begun.discard(event.request_id)
            elif event.request_id not in self._begun:
                urgent = True
                self._begun.add(event.request_id)
        self._waiting += events
        if not self._waiting or (now < self._due and not urgent):
            return []
        self._due = now + self._interval_s
        out, self._waiting = together(self._waiting), []
        return out


def together(events: Sequence[TokenEvent]) -> list[TokenEvent]:
    """One event for each request; those of a request stay apart where only some of them have logprobs."""
    of: dict[str, list[TokenEvent]] = {}
    for event in events:
        of.setdefault(event.request_id, []).append(event)
    return [one for several in of.values() for one in _joined(several)]


def _joined(events: list[TokenEvent]) -> list[TokenEvent]:
    if len(events) < 2 or len({(bool(e.logprobs), bool(e.top)) for e in events if e.token_ids}) > 1:
        return events
    return [
        replace(
            events[-1],
            token_ids=tuple(t for e in events for t in e.token_ids),
            logprobs=tuple(v for e in events for v in e.logprobs),
            top=tuple(t for e in events for t in e.top),
        )
    ]
