"""Probabilities wait until the text they belong to has gone out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer: its bytes, the natural logarithm of its probability, and the alternatives, best first."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class LogprobQueue:
    """Of every token of an answer. Those behind a stop string never come out."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        self._read = self._released = 0

    def token(self, entry: TokenLogprob, text: str) -> None:
        """The next token, and what the detokeniser gave for it."""
        self._read += len(text)
        self._waiting.append((self._read, entry))

    def text(self, text: str) -> None:
        """Text of the tokens that has passed the stop strings."""
        self._released += len(text)

    def finish(self) -> None:
        """No more comes, and nothing waits any more."""

    def take(self) -> list[TokenLogprob]:
        """Of the tokens whose text has gone out since the last call."""
        out: list[TokenLogprob] = []
        while self._waiting and self._waiting[0][0] <= self._released:
            out.append(self._waiting.popleft()[1])
        return out
