"""The beginnings that prompts share: found, computed once, kept for a while. For the transformers engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from tuneloop.engines.kv import Group, PrefixPass
from tuneloop.models import hidden_states, root_keys_values

MIN_PREFIX = 16
"""Prompts that agree on at least this many tokens share their keys and values."""

IDLE_GROUPS = 4
"""Beginnings without a running sequence that are kept for prompts to come."""

RECENT = 8
"""Prompts that ran before and are compared with new ones."""


class Prefixes:
    """Gives every prompt the group of sequences that it begins like.

    Args:
        model: Computes beginnings.
        share: Without it, only what all have (virtual tokens) is shared.
    """

    def __init__(self, model: torch.nn.Module, *, share: bool) -> None:
        self.virtual, self._root = root_keys_values(model)
        self._model, self._share = model, share
        self._device = next(model.parameters()).device
        self._groups: list[Group] = []
        self._recent: deque[tuple[int, ...]] = deque(maxlen=RECENT)
        self.queries = self.hits = 0
        """Prompt tokens looked up, and those of them that were there."""

    def admitted(self, prompt: tuple[int, ...]) -> None:
        """The prompt runs now; later ones are compared with it."""
        self._recent.append(prompt)
        self.queries += len(prompt)

    def group_for(self, prompt: tuple[int, ...], near: Sequence[tuple[int, ...]]) -> Group:
        """The group with the longest beginning of this prompt; a new one where others share more of it.

        Args:
            prompt: Token ids.
            near: Prompts that wait behind it.
        """
        usable = prompt[:-1]  # the last token must run to give logits
        fitting = [g for g in self._groups if g.prefix == usable[: len(g.prefix)]]
        best = max(fitting, key=lambda g: len(g.prefix), default=None)
        others = [*near, *self._recent] if self._share else []
        shared = _worth_sharing([_common(usable, other) for other in others])
        if shared >= max(MIN_PREFIX, 2 * len(best.prefix) if best else 0):
            group = self._group(usable[:shared])
            row = torch.tensor([group.prefix], device=self._device)
            hidden_states(self._model, row, PrefixPass(group, self._device))
        elif best is not None:
            self.hits += len(best.prefix)
            return best
        else:
            group = self._group(())
        self._groups.append(group)
        idle = [g for g in self._groups if not g.lengths and g is not group]
        for old in idle[: max(0, len(idle) - IDLE_GROUPS)]:
            self._groups.remove(old)
        return group

    def held_tokens(self) -> int:
        """Of running sequences; a shared beginning counts once."""
        return sum(len(g.prefix) + sum(g.lengths) for g in self._groups if g.lengths)

    def clear(self) -> None:
        self._groups.clear()

    def empty(self) -> Group:
        """A group that shares nothing but virtual tokens, for one pass."""
        return self._group(())

    def _group(self, prefix: tuple[int, ...]) -> Group:
        return Group(prefix, shared=dict(self._root), virtual=self.virtual)


def _worth_sharing(common: Sequence[int]) -> int:
    """The length that saves most: a longer beginning is shared by fewer prompts."""
    ordered = sorted(common, reverse=True)
    return max(enumerate(ordered, 1), key=lambda pair: pair[0] * pair[1], default=(0, 0))[1]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
