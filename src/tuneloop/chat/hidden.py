"""Nobody can forge a turn: control words inside messages are hidden while a template is rendered."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from tuneloop.types import Message, ToolCall

MARK = "\ue0f0"
"""Private use: stands around the number of a control word while the template is rendered."""


class Hidden:
    """Control words inside messages, replaced by private-use marks; ``Chat._ids`` puts them back as plain text."""

    def __init__(self, pattern: re.Pattern[str] | None) -> None:
        self.pattern = pattern
        self.words: list[str] = []

    def text(self, text: str) -> str:
        return self.pattern.sub(self._mark, text) if self.pattern and text else text

    def _mark(self, match: re.Match[str]) -> str:
        self.words.append(match.group())
        return f"{MARK}{len(self.words) - 1}{MARK}"

    def json(self, text: str | None) -> str | None:
        """JSON text, written anew: an escape may hide a control word."""
        if text is None or self.pattern is None:
            return text
        try:
            return self.text(json.dumps(json.loads(text), ensure_ascii=False))
        except ValueError:
            return self.text(text)

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        return [
            replace(
                m,
                content=self.text(m.content),
                reasoning=self.text(m.reasoning) if m.reasoning else m.reasoning,
                tool_calls=tuple(ToolCall(self.text(c.name), self.json(c.arguments) or "") for c in m.tool_calls),
            )
            for m in messages
        ]
