"""Token events -> the text a client sees: detokenised, ended at stop strings, reasoning apart."""

from __future__ import annotations

from collections.abc import Iterable

from tuneloop.chat import Chat, StopStrings
from tuneloop.serve.reasoning import Part, ReasoningStream
from tuneloop.types import FinishReason, TokenEvent


class Answer:
    """One answer while it arrives.

    Args:
        chat: Its detokeniser.
        prompt: The rendered prompt.
        stops: Stop strings.
    """

    def __init__(self, chat: Chat, prompt: str, stops: Iterable[str] = ()) -> None:
        self._text, self._stops, self._split = chat.stream(), StopStrings(stops), ReasoningStream(prompt)
        self._parts: list[Part] = []
        self.tokens = 0
        self.finish: FinishReason | None = None

    def add(self, event: TokenEvent) -> list[Part]:
        """Take an event; returns what can be shown. ``finish`` is set when the answer is complete."""
        self.tokens += len(event.token_ids)
        text = self._stops.feed(self._text.feed(event.token_ids))
        if self._stops.stopped is None and event.finish:
            text += self._stops.feed(self._text.finish()) + self._stops.finish()
        parts = self._split.feed(text) if text else []
        if self._stops.stopped is not None or event.finish:
            self.finish = "stop" if self._stops.stopped is not None else event.finish
            parts += self._split.finish()
        self._parts += parts
        return parts

    @property
    def content(self) -> str:
        return "".join(text for kind, text in self._parts if kind == "content")

    @property
    def reasoning(self) -> str | None:
        return "".join(text for kind, text in self._parts if kind == "reasoning") or None
