"""Token events -> the text a client sees: detokenised, ended at stop strings, reasoning apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from tuneloop.chat import Chat, StopStrings
from tuneloop.serve.logprobs import LogprobQueue, TokenLogprob
from tuneloop.serve.reasoning import ReasoningStream
from tuneloop.types import FinishReason, TokenEvent

__all__ = ["Answer", "Finish", "Kind", "Part", "PartStage", "TokenLogprob"]

Kind = Literal["reasoning", "content", "call"]
Part = tuple[Kind, str]
"""A piece of an answer. A ``call`` is a whole one (a forced one that was cut: as far as it goes): a JSON object with name and
arguments, both text."""
Finish = FinishReason | Literal["tool_calls", "content_filter"]


class PartStage(Protocol):
    """Reads and rewrites the parts of one answer on their way out. It may hold text back, never reorder it."""

    ended: Finish | None
    """Set when this stage says why the answer ends; ``content_filter`` ends it at once."""

    def feed(self, parts: list[Part]) -> list[Part]:
        """What can go on now."""
        ...

    def finish(self) -> list[Part]:
        """What was held back, now that no more comes."""
        ...


class Answer:
    """One answer while it arrives.

    Args:
        chat: Its detokeniser.
        prompt: The rendered prompt.
        stops: Stop strings.
        stages: What the parts go through, in order.
        logprobs: Keep every token's probability for ``take_logprobs``.
        calls: Control tokens that mark calls are part of the text, for the stage that reads them.
        queue: Where they wait, for stages that withhold text.
        reasoning: Tell reasoning from content; a raw continuation is content only.
    """

    def __init__(
        self,
        chat: Chat,
        prompt: str,
        stops: Iterable[str] = (),
        *,
        stages: Sequence[PartStage] = (),
        logprobs: bool = False,
        queue: LogprobQueue | None = None,
        reasoning: bool = True,
        calls: bool = False,
    ) -> None:
        self._chat, self._stages = chat, stages
        self._text, self._stops = chat.stream(calls=calls), StopStrings(stops)
        self._split = ReasoningStream(prompt) if reasoning else None
        self._parts: list[Part] = []
        self._logprobs = (queue or LogprobQueue()) if logprobs else None
        self.tokens = 0
        self.finish: Finish | None = None

    def add(self, event: TokenEvent) -> list[Part]:
        """Take an event; returns what can be shown. ``finish`` is set when the answer is complete."""
        self.tokens += len(event.token_ids)
        text = self._stops.feed(self._detokenize(event))
        if self._stops.stopped is None and event.finish:
            text += self._stops.feed(self._text.finish()) + self._stops.finish()
        if self._logprobs:
            self._logprobs.text(text)
        parts: list[Part] = []
        if text:
            parts += self._split.feed(text) if self._split else [("content", text)]
        ended: Finish | None = "stop" if self._stops.stopped is not None else event.finish
        if ended and self._split:
            parts += self._split.finish()
        for stage in self._stages:
            parts = stage.feed(parts) + (stage.finish() if ended else [])
            if stage.ended == "content_filter":
                ended = stage.ended
        if ended:
            said = next((s.ended for s in reversed(self._stages) if s.ended), None)
            kept = ended == "error" or (said == "tool_calls" and ended != "stop")  # cut off is cut off, calls or not
            self.finish = ended if kept else said or ended
        self._parts += parts
        return parts

    def take_logprobs(self) -> list[TokenLogprob]:
        """Of the tokens whose text has gone out since the last call; those behind a stop string never come."""
        return self._logprobs.take() if self._logprobs else []

    @property
    def content(self) -> str:
        return self._joined("content")

    @property
    def reasoning(self) -> str | None:
        return self._joined("reasoning") or None

    @property
    def calls(self) -> list[str]:
        return [text for kind, text in self._parts if kind == "call"]

    def _joined(self, wanted: Kind) -> str:
        return "".join(text for kind, text in self._parts if kind == wanted)

    def _detokenize(self, event: TokenEvent) -> str:
        if self._logprobs is None or not event.logprobs:
            return self._text.feed(event.token_ids)
        text = ""
        for i, (token, logprob) in enumerate(zip(event.token_ids, event.logprobs, strict=True)):
            said = self._text.feed([token])
            top = event.top[i] if event.top else ()
            alternatives = tuple((self._chat.token_bytes(t), value) for t, value in top)
            entry = TokenLogprob(self._chat.token_bytes(token), logprob, alternatives)
            self._logprobs.token(entry, said)
            text += said
        return text
