"""The filters on the way out: a ``PartStage``, the last of an answer."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from tuneloop.progress import log
from tuneloop.serve.answer import Finish, Kind, Part
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.filters.calls import Blocked, Checks, filtered_json
from tuneloop.serve.filters.logprobs import GuardedLogprobs
from tuneloop.serve.filters.text import FilteredText, Hits
from tuneloop.serve.logprobs import LogprobQueue


class OutputFilter:
    """Content, reasoning and calls of one answer, each in a state of its own.

    Reasoning ends before the rest begins. A call waits until the content before it is decided: the content after it may
    complete what began there, since a client joins the two.

    Args:
        checks: Gives new checks for a text.
        count: Is told (filter, action, how many) as they are found.
    """

    def __init__(self, checks: Checks, count: Callable[[str, str, int], object]) -> None:
        self._checks, self._count = checks, count
        self.ended: Finish | None = None
        self.hits = Hits()
        self._told = Hits()
        self._out: list[Part] = []
        self._texts: dict[Kind, FilteredText[str]] = {k: self._text(k) for k in ("reasoning", "content")}
        self._reasoned = False
        self._guard: GuardedLogprobs | None = None

    def queue(self) -> LogprobQueue:
        """What the logprobs of this answer have to go through."""
        holding = [c for c in self._checks() if c.action != "flag"]
        self._guard = GuardedLogprobs(lambda: [c for c in self._checks() if c.action != "flag"]) if holding else None
        return self._guard or LogprobQueue()

    @property
    def held(self) -> int:
        """Characters that wait now."""
        return sum(text.held for text in self._texts.values())

    def feed(self, parts: list[Part]) -> list[Part]:
        return self._safely(lambda: self._feed(parts))

    def finish(self) -> list[Part]:
        return self._safely(self._finish)

    def _safely(self, work: Callable[[], None]) -> list[Part]:
        """An answer that could not be checked does not go out."""
        try:
            work()
        except Exception as error:
            self.ended = "content_filter"
            raise failed(error) from error
        for (name, action), count in (self.hits - self._told).items():
            self._count(name, action, count)
        self._told = Hits(self.hits)
        out, self._out = self._out, []
        return out

    def _feed(self, parts: list[Part]) -> None:
        after = sum(len(text) for kind, text in parts if kind != "call")
        for kind, text in parts:
            if self.ended:
                return
            if kind == "call":
                self._end_reasoning()
                self._texts["content"].mark(text)
                self._say("content", "")
                continue
            after -= len(text)
            if kind == "content":
                self._end_reasoning()
            elif self._reasoned:
                raise RuntimeError("reasoning came after the answer had begun")
            if self._guard:
                self._guard.came(kind, self._texts[kind].fed, text, after)
            self._say(kind, text)

    def _finish(self) -> None:
        if not self.ended:
            self._end_reasoning()
            self._say("content", "", final=True)
        if self._guard:
            self._guard.finish()

    def _end_reasoning(self) -> None:
        if not self._reasoned:
            self._reasoned = True
            self._say("reasoning", "", final=True)

    def _say(self, kind: Kind, text: str, final: bool = False) -> None:
        if self.ended:
            return
        through = self._texts[kind]
        through.feed(text, final)
        if self._guard:
            self._guard.decided(kind, through.at)
        if through.blocked:
            self.ended = "content_filter"
            if self._guard:
                self._guard.finish()

    def _text(self, kind: Kind) -> FilteredText[str]:
        def emit(text: str) -> None:
            if self._out and self._out[-1][0] == kind:
                text = self._out.pop()[1] + text
            self._out.append((kind, text))

        def passed(start: int, end: int) -> None:
            if self._guard:
                self._guard.passed(kind, start, end)

        return FilteredText(self._checks(), self.hits, emit, passed, self._call)

    def _call(self, text: str) -> bool:
        try:
            self._out.append(("call", filtered_json(text, self._checks, self.hits)))
        except Blocked:
            return False
        return True


def failed(error: Exception) -> ApiError:
    """What a caller hears of an error in a filter; the log gets its kind and place, never the text it was about."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    log(f"a filter failed, the text is refused: {type(error).__name__} in {Path(last.filename).name}:{last.lineno}")
    return ApiError(500, "a filter failed, so that nothing can be shown", code="filter_error")
