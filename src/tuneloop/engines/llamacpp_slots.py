"""Which of llama.cpp's places ("slots") an answer gets."""

from __future__ import annotations

from collections.abc import Sequence

_PASS_TOKENS = 256
"""A further pass over the weights at every step, as long as an answer lasts, counted in tokens of a prompt."""


class Slots:
    """llama.cpp's slots: which are idle, and the tokens that each still knows.

    Each slot has a cache of its own, and llama.cpp computes a step's tokens together only where their slots are
    neighbours: a gap between busy slots is one more pass over all weights at every step (``split_equal`` with
    ``sequential`` in its ``llama-batch.cpp``). So a slot's prefix has to be worth the gap that it makes.

    Args:
        count: How many there are.
        remember: Whether the beginning of a prompt may be what the slot still knows.
    """

    def __init__(self, count: int, *, remember: bool) -> None:
        self._idle: dict[int, tuple[int, ...]] = dict.fromkeys(range(count), ())  # the one that rests longest first
        self._count, self._remember = count, remember

    def __bool__(self) -> bool:
        """Whether one is idle."""
        return bool(self._idle)

    def take(self, prompt: Sequence[int]) -> tuple[int, int]:
        """The idle slot that costs least, and how many tokens of the prompt it need not compute.

        At least one is computed again, for its logits.
        """
        known = {slot: self._known(slot, prompt) for slot in self._idle}
        chosen = max(known, key=lambda slot: known[slot] - _PASS_TOKENS * self._passes(slot))
        del self._idle[chosen]
        return chosen, known[chosen]

    def give_back(self, slot: int, tokens: tuple[int, ...]) -> None:
        """The slot is idle and knows these tokens."""
        self._idle[slot] = tokens

    def _known(self, slot: int, prompt: Sequence[int]) -> int:
        return min(common_prefix(self._idle[slot], prompt), len(prompt) - 1) if self._remember else 0

    def _passes(self, slot: int) -> int:
        """How many more passes a step needs when this slot is busy too: -1 between two busy ones, 1 away from all."""
        return 1 - sum(self._busy(beside) for beside in (slot - 1, slot + 1))

    def _busy(self, slot: int) -> bool:
        return 0 <= slot < self._count and slot not in self._idle


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """With how many equal items both begin."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # slices compare at C speed
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low
