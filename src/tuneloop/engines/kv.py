"""Keys and values of running sequences, for the transformers engine.

Sequences that begin with the same tokens form a ``Group``: the beginning's keys and values stand once, each sequence
keeps only its own. A ``Pass`` is one trip of a flat row through the model: it stores new keys and values as they
appear, and attends each sequence to [beginning; own].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(slots=True)
class Group:
    """Sequences with a common beginning.

    ``shared[layer]`` is (keys, values) of the beginning, each 1 x G x P x D. ``own[layer]`` is (keys, values) of S
    slots, each S x G x room x D; ``lengths[s]`` counts the tokens that slot s holds of its own. Slots in use are
    the first ones: a freed slot is filled by the last. ``virtual`` tokens (prefix, prompt tuning) come before the prefix.
    """

    prefix: tuple[int, ...]
    shared: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    virtual: int = 0

    @property
    def before(self) -> int:
        """Tokens that stand before a sequence's own."""
        return self.virtual + len(self.prefix)

    def add(self) -> int:
        """A new, empty slot."""
        self.lengths.append(0)
        return len(self.lengths) - 1

    def remove(self, slot: int) -> int:
        """Free a slot; returns the slot whose sequence moved into it (itself when none did)."""
        last = len(self.lengths) - 1
        if slot != last:
            for keys, values in self.own.values():
                keys[slot], values[slot] = keys[last].clone(), values[last].clone()
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self.own.clear()
        return last

    def store(self, layer: int, slot: int, at: int, k_GTD: Tensor, v_GTD: Tensor) -> None:
        """Write new tokens of a slot behind its first ``at``."""
        end = at + k_GTD.shape[1]
        keys, values = self._room(layer, end, k_GTD, v_GTD)
        keys[slot, :, at:end], values[slot, :, at:end] = k_GTD, v_GTD

    def _room(self, layer: int, tokens: int, k_GTD: Tensor, v_GTD: Tensor) -> tuple[Tensor, Tensor]:
        slots = len(self.lengths)
        held = self.own.get(layer)
        if held is None or held[0].shape[0] < slots or held[0].shape[2] < tokens:
            rows = max(slots, 0 if held is None else held[0].shape[0])
            room = max(64, 1 << (tokens - 1).bit_length(), 0 if held is None else held[0].shape[2])
            grown = tuple(x.new_zeros(rows, x.shape[0], room, x.shape[2]) for x in (k_GTD, v_GTD))
            if held is not None:
                for new, old in zip(grown, held, strict=True):
                    new[: old.shape[0], :, : old.shape[2]] = old
            self.own[layer] = held = (grown[0], grown[1])
        return held


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [start, end) of the flat row: the next tokens of a slot, behind its first ``at`` own tokens."""

    group: Group
    slot: int
    start: int
    end: int
    at: int


class Pass:
    """A flat row of next tokens: prompts (many tokens) and running sequences (one each).

    Args:
        pieces: In row order; the one-token pieces of a group stand together, in slot order.
    """

    def __init__(self, pieces: Sequence[Piece], device: torch.device) -> None:
        self.prompts = [p for p in pieces if p.end - p.start > 1]
        steps: dict[int, list[Piece]] = {}
        for piece in pieces:
            if piece.end - piece.start == 1:
                steps.setdefault(id(piece.group), []).append(piece)
        self.steps = list(steps.values())
        offsets = [torch.arange(p.end - p.start) + p.at + p.group.before for p in pieces]
        self.position_ids_1T = torch.cat(offsets)[None].to(device)
        self._mask = cache(partial(_lower_right, device=device))  # layers of a kind share it
        self._slots = {id(s): torch.tensor([p.slot for p in s], device=device) for s in self.steps}
        self._lengths = {id(s): torch.tensor([p.at + 1 for p in s], device=device) for s in self.steps}

    def attend(
        self, layer: int, q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """Called by the attention function of every layer; returns 1 x T x H x Dv. ``window``: tokens that each sees."""
        out_THD = q_1HTD.new_empty(q_1HTD.shape[2], q_1HTD.shape[1], v_1GTD.shape[-1])
        for piece in self.prompts:
            part = slice(piece.start, piece.end)
            piece.group.store(layer, piece.slot, piece.at, k_1GTD[0, :, part], v_1GTD[0, :, part])
            keys, values = self._all_of(layer, piece)
            repeat = q_1HTD.shape[1] // keys.shape[1]
            mask = self._mask(piece.end - piece.start, piece.group.before + piece.at, window)
            o = scaled_dot_product_attention(
                q_1HTD[:, :, part],
                keys.repeat_interleave(repeat, 1),
                values.repeat_interleave(repeat, 1),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
            )
            out_THD[part] = o[0].transpose(0, 1)
        for pieces in self.steps:
            for piece in pieces:
                part = slice(piece.start, piece.end)
                piece.group.store(layer, piece.slot, piece.at, k_1GTD[0, :, part], v_1GTD[0, :, part])
            rows = torch.arange(pieces[0].start, pieces[-1].end)
            out_THD[rows] = self._step(layer, pieces, q_1HTD[0][:, rows], scaling, window)
        return out_THD[None]

    def _all_of(self, layer: int, piece: Piece) -> tuple[Tensor, Tensor]:
        """Keys and values of beginning and own tokens, up to the piece's end."""
        total = piece.at + piece.end - piece.start
        k, v = (x[piece.slot : piece.slot + 1, :, :total] for x in piece.group.own[layer])
        if not piece.group.before:
            return k, v
        shared_k, shared_v = piece.group.shared[layer]
        return torch.cat([shared_k, k], 2), torch.cat([shared_v, v], 2)

    def _step(self, layer: int, pieces: Sequence[Piece], q_HBD: Tensor, scaling: float, window: int | None) -> Tensor:
        """One new token for each of B sequences of a group, all at once; returns B x H x Dv.

        Scores against the shared beginning and against own tokens are normalised together.
        """
        group = pieces[0].group
        lengths_B = self._lengths[id(pieces)]
        longest = max(p.at + 1 for p in pieces)
        own_k, own_v = (x[self._slots[id(pieces)], :, :longest] for x in group.own[layer])
        heads, count = q_HBD.shape[:2]
        kv_heads = own_k.shape[1]
        q_BGRD = q_HBD.transpose(0, 1).reshape(count, kv_heads, heads // kv_heads, -1) * scaling
        own = torch.einsum("bgrd,bgtd->bgrt", q_BGRD, own_k)
        at_T = torch.arange(longest, device=own.device)[None]
        beyond_BT = at_T >= lengths_B[:, None]
        if window is not None:
            beyond_BT |= at_T < lengths_B[:, None] - window
        own = own.masked_fill(beyond_BT[:, None, None], -math.inf)
        if not group.before:
            weights = own.float().softmax(-1).to(own.dtype)
            return torch.einsum("bgrt,bgtd->bgrd", weights, own_v).reshape(count, heads, -1)
        shared_k, shared_v = (x[0] for x in group.shared[layer])
        first = torch.einsum("bgrd,gpd->bgrp", q_BGRD, shared_k)
        if window is not None:
            far_BP = torch.arange(-group.before, 0, device=own.device)[None] < lengths_B[:, None] - window
            first = first.masked_fill(far_BP[:, None, None], -math.inf)
        weights = torch.cat([first, own], -1).float().softmax(-1).to(own.dtype)
        split = first.shape[-1]
        out = torch.einsum("bgrp,gpd->bgrd", weights[..., :split], shared_v)
        return (out + torch.einsum("bgrt,bgtd->bgrd", weights[..., split:], own_v)).reshape(count, heads, -1)


class PrefixPass:
    """The beginning of a group goes through the model once; its keys and values are kept."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group = group
        self.position_ids_1T = torch.arange(group.virtual, group.before, device=device)[None]
        self._mask = cache(partial(_lower_right, len(group.prefix), group.virtual, device=device))

    def attend(
        self, layer: int, q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        if self.group.virtual:
            keys, values = self.group.shared[layer]
            k_1GTD, v_1GTD = torch.cat([keys, k_1GTD], 2), torch.cat([values, v_1GTD], 2)
        self.group.shared[layer] = (k_1GTD.contiguous(), v_1GTD.contiguous())
        repeat = q_1HTD.shape[1] // k_1GTD.shape[1]
        k, v = k_1GTD.repeat_interleave(repeat, 1), v_1GTD.repeat_interleave(repeat, 1)
        mask = self._mask(window)
        out = scaled_dot_product_attention(q_1HTD, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
        return out.transpose(1, 2).contiguous()


def _lower_right(new: int, before: int, window: int | None, device: torch.device) -> Tensor | None:
    """A boolean mask: each of the new tokens sees everything before it, or ``window`` tokens with itself. None when that is
    a plain causal square."""
    narrow = window is not None and before + new > window
    if before == 0 and not narrow:
        return None
    mask = torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)
    return mask.triu(before - window + 1) if narrow and window is not None else mask
