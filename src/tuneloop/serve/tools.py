"""Tool calls told from content while the text arrives. No client sees half a marker."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from tuneloop.chat import CallFormat
from tuneloop.serve.answer import Finish, Part
from tuneloop.types import ToolCall


class ToolStage:
    """A ``PartStage``: content in, content and whole calls out.

    A block that cannot be read, or was cut, stays content; a forced one is a call as far as it goes, since nothing else
    was asked for. White space between content and calls belongs to neither.

    Args:
        calls: How the model writes calls.
        accept: Whether a call may go out; a block with one that may not stays content.
        parallel: More than one call an answer; without it whatever follows the first is left out.
        forced: The functions of which the answer calls one, whatever else; empty where it may not.
    """

    def __init__(
        self,
        calls: CallFormat,
        accept: Callable[[ToolCall], bool],
        *,
        parallel: bool = True,
        forced: Sequence[str] = (),
    ) -> None:
        self.ended: Finish | None = None
        self._syntax, self._accept, self._parallel = calls.syntax, accept, parallel
        self._forced = forced
        self._held = ""
        self._before = ""
        """What to give back in front of a block that is no call: white space and the marker."""
        self._state = "text" if self._syntax.opening else "start"
        self._after_call = False
        self._scanned, self._in_string = 0, False

    def feed(self, parts: list[Part]) -> list[Part]:
        out: list[Part] = []
        for kind, text in parts:
            if kind != "content":
                out.append((kind, text))
                continue
            self._held += text
            while (found := self._step()) is not None:
                out += found
        return out

    def finish(self) -> list[Part]:
        held, self._held = self._held, ""
        if self._state == "block":
            return self._block(held, "")
        if self._forced and self.ended is None:
            return self._begun("")
        return [("content", held)] if held and not (self._after_call and not held.strip()) and not self._full else []

    @property
    def _full(self) -> bool:
        return self.ended is not None and not self._parallel

    def _step(self) -> list[Part] | None:
        """One piece of news from what is held; None when more text is needed."""
        if self._full:
            self._held = ""
            return None
        if self._state == "start":
            return self._start()
        if self._state == "text":
            return self._text()
        return self._inside() if self._state == "block" and self._syntax.closing else None

    def _start(self) -> list[Part] | None:
        """Whether an answer without a marker begins as a call does."""
        head = self._held.lstrip()
        if any(head.startswith(s) for s in self._syntax.starts):
            self._state = "block"
            return None
        if any(s.startswith(head) for s in self._syntax.starts):
            return None
        self._state = "plain"
        return []

    def _text(self) -> list[Part] | None:
        if self._after_call:
            self._held = self._held.lstrip()
        at = self._held.find(self._syntax.opening)
        end = at if at >= 0 else len(self._held) - self._partial()
        content = self._held[:end].rstrip()
        if at >= 0:
            self._before = self._held[len(content) : at] + self._syntax.opening
            self._held = self._held[at + len(self._syntax.opening) :]
            self._state, self._scanned, self._in_string = "block", 0, False
        elif not content:
            return None
        else:
            self._held = self._held[len(content) :]
        self._after_call = self._after_call and not content
        return [("content", content)] if content else []

    def _partial(self) -> int:
        """How much of the end may be the beginning of a marker."""
        opening = self._syntax.opening
        sizes = range(min(len(opening) - 1, len(self._held)), 0, -1)
        return next((k for k in sizes if self._held.endswith(opening[:k])), 0)

    def _inside(self) -> list[Part] | None:
        at = self._find_closing()
        if at is None:
            return None
        block, self._held = self._held[:at], self._held[at + len(self._syntax.closing) :]
        self._state = "text"
        return self._block(block, self._syntax.closing)

    def _find_closing(self) -> int | None:
        """Where the block ends; a marker inside a JSON string does not count."""
        text, closing, at = self._held, self._syntax.closing, self._scanned
        while at < len(text):
            character = text[at]
            if self._in_string and character == "\\":
                if at + 1 == len(text):
                    break
                at += 1
            elif character == '"':
                self._in_string = not self._in_string
            elif not self._in_string and closing.startswith(rest := text[at : at + len(closing)]):
                if rest == closing:
                    return at
                break
            at += 1
        self._scanned = at
        return None

    def _block(self, block: str, closing: str) -> list[Part]:
        calls = self._syntax.read(block)
        before, self._before = self._before, ""
        if calls and all(map(self._accept, calls)):
            self.ended, self._after_call = "tool_calls", True
            return [_part(call) for call in (calls if self._parallel else calls[:1])]
        self._after_call = False
        if not self._forced:
            return [("content", before + block + closing)]
        if closing:
            self.ended = "tool_calls"
        return self._begun(block)

    def _begun(self, block: str) -> list[Part]:
        """A forced call as far as it goes."""
        call = self._syntax.begun(block, self._forced)
        return [_part(call)] if call else []


def _part(call: ToolCall) -> Part:
    return "call", json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
