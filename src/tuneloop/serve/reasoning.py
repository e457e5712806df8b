"""Reasoning told from answer while the text arrives. The same result as ``chat.split_reasoning`` on the whole text."""

from __future__ import annotations

from typing import Literal

from tuneloop.chat import opens_reasoning

OPEN, CLOSE = "<think>", "</think>"
Part = tuple[Literal["reasoning", "content"], str]


class ReasoningStream:
    """Text in, pieces of reasoning and content out.

    Args:
        prompt: The rendered prompt; DeepSeek-R1's ends inside the block.
    """

    def __init__(self, prompt: str) -> None:
        self._opened = opens_reasoning(prompt)
        self._state: Literal["start", "inside", "after", "content"] = "start"
        self._waiting = ""
        self._begun = False

    def feed(self, text: str) -> list[Part]:
        """What is certain now. Parts of the tags, and line ends beside them, wait."""
        self._waiting += text
        parts: list[Part] = []
        if self._state == "start":
            self._decide()
        if self._state == "inside":
            parts += self._inside()
        if self._state == "after":
            self._waiting = self._waiting.lstrip("\n")
            self._state = "content" if self._waiting else "after"
        if self._state == "content" and self._waiting:
            parts.append(("content", self._waiting))
            self._waiting = ""
        return parts

    def finish(self) -> list[Part]:
        """What waited, now that no more text comes."""
        rest, self._waiting = self._waiting, ""
        if self._state == "inside" or (self._state == "start" and self._opened):
            rest = rest.strip("\n") if not self._begun else rest.rstrip("\n")
            return [("reasoning", rest)] if rest else []
        return [("content", rest)] if rest and self._state == "start" else []

    def _decide(self) -> None:
        """Leave ``start`` as soon as the text cannot become, or is, an opening tag."""
        head = self._waiting.lstrip()
        if head.startswith(OPEN):
            self._waiting, self._state = head.removeprefix(OPEN), "inside"
        elif not OPEN.startswith(head):
            self._state = "inside" if self._opened else "content"

    def _inside(self) -> list[Part]:
        if not self._begun:
            self._waiting = self._waiting.lstrip("\n")
        inside, closed, rest = self._waiting.partition(CLOSE)
        if closed:
            self._waiting, self._state, piece = rest, "after", inside.rstrip("\n")
        else:
            keep = next((k for k in range(len(CLOSE) - 1, 0, -1) if inside.endswith(CLOSE[:k])), 0)
            piece = inside[: len(inside) - keep].rstrip("\n")
            self._waiting = inside[len(piece) :]
        self._begun = self._begun or bool(piece)
        return [("reasoning", piece)] if piece else []
