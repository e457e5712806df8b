"""Which tokens wrote a text, where an engine reports the text and only how many tokens there were."""

from __future__ import annotations

from collections.abc import Mapping


class Spelling:
    """Finds tokens by their bytes.

    Args:
        tokens: The bytes of each token; where several have the same, the first counts.
    """

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        self._of: dict[bytes, int] = {}
        for token, text in tokens.items():
            self._of.setdefault(text, token)
        self._longest = max(map(len, self._of), default=0)

    def spell(self, text: bytes, count: int) -> tuple[int, ...] | None:
        """Exactly ``count`` tokens that join to a text, long ones first; None when there are none.

        More than one answer can be right; each of them is the same text.
        """
        if count == 0:
            return None if text else ()
        if not count <= len(text) <= count * self._longest:
            return None
        for size in range(min(self._longest, len(text) - count + 1), 0, -1):
            first = self._of.get(text[:size])
            if first is not None and (rest := self.spell(text[size:], count - 1)) is not None:
                return (first, *rest)
        return None
