"""Many sequences as one flat row: no padding, and what sequences share is computed once.

A flat row holds the nodes of a forest in depth-first order. A node is a run of tokens; a token attends to the tokens
of its ancestors and to the earlier tokens of its own node, and to nothing else. Independent sequences are trees of one
node; rows that begin alike share a root. Positions continue from parent to child, so every token sees exactly what it
would see in its own padded row.

The row runs through any transformers model whose attention goes through ``AttentionInterface``: ``attention`` below is
registered under ``ATTENTION``, and gets its ``Layout`` as a keyword argument that the model passes down unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tuneloop.errors import ModelError
from tuneloop.models.attention import attend

ATTENTION = "tuneloop_flat"
"""Name of the attention function in transformers' registry."""

TILE_AREA = 96 * 96
"""Queries x keys below which nodes are always computed together under one mask (measured on AVX2 and AVX-512 CPUs)."""

TILE_WASTE = 1.25
"""A tile may compute this many times the scores that are needed."""

QUERY_BLOCK = 128
"""Queries of one long node that are computed together: a causal square in one piece computes twice what is needed."""

MIN_SHARED_TOKENS = 8
"""A shorter shared beginning is computed again: splitting it off would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Node:
    """Tokens [start, end) of the flat row, continuing node ``parent`` (-1: a root)."""

    start: int
    end: int
    parent: int = -1


@dataclass(slots=True)
class Forest:
    """Rows laid out flat: ``places[r][t]`` is where token t of row r stands in ``tokens``."""

    tokens: list[int]
    nodes: list[Node]
    places: list[list[int]]

    @classmethod
    def grow(cls, rows: Sequence[Sequence[int]], *, share: bool = True) -> Forest:
        """Lay rows out one after another; with ``share``, what they begin with in common stands once."""
        forest = cls([], [], [[] for _ in rows])
        if share:
            forest._branch(rows, sorted(range(len(rows)), key=lambda r: tuple(rows[r])), 0, -1)
        else:
            for r in range(len(rows)):
                forest._node(rows, [r], 0, len(rows[r]), -1)
        return forest

    def fill(self, tokens: int) -> None:
        """Append a tree of its own with this many tokens, which no row is placed in."""
        if tokens:
            self.nodes.append(Node(len(self.tokens), len(self.tokens) + tokens))
            self.tokens.extend([0] * tokens)

    def _node(self, rows: Sequence[Sequence[int]], group: Sequence[int], start: int, end: int, parent: int) -> int:
        """Append tokens [start, end) that all rows of the group share; returns the node's index."""
        at = len(self.tokens)
        self.tokens.extend(rows[group[0]][start:end])
        self.nodes.append(Node(at, len(self.tokens), parent))
        for r in group:
            self.places[r].extend(range(at, len(self.tokens)))
        return len(self.nodes) - 1

    def _branch(self, rows: Sequence[Sequence[int]], group: list[int], start: int, parent: int) -> None:
        """Add the subtree of a group (sorted by tokens) whose rows agree on their first ``start`` tokens."""
        while group:
            first = rows[group[0]]
            if start == len(first):  # a row that ends here is all shared
                group = group[1:]
                continue
            together, shared = [group[0]], len(first)
            for r in group[1:]:
                common = _common(first, rows[r], start, shared)
                if common - start < MIN_SHARED_TOKENS:
                    break
                together.append(r)
                shared = common
            node = self._node(rows, together, start, shared, parent)
            if len(together) > 1:
                self._branch(rows, together, shared, node)
            group = group[len(together) :]


def _common(a: Sequence[int], b: Sequence[int], start: int, end: int) -> int:
    """How far a and b agree, from ``start`` up to ``end``."""
    end = min(end, len(b))
    while start < end and a[start] == b[start]:
        start += 1
    return start


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries [start, end) against some keys of the row.

    ``keys`` lists key ranges; ``mask_QK`` is additive (0 or -inf), None for a plain causal square.
    """

    start: int
    end: int
    keys: tuple[tuple[int, int], ...]
    mask_QK: Tensor | None


@dataclass(frozen=True, slots=True)
class Layout:
    """How one flat row of T tokens attends: computed once, used by every layer.

    ``rows_N`` says which rows of the last layer are asked for, where its layer can narrow (``tuneloop.train.kernels``).
    """

    tiles: tuple[Tile, ...]
    position_ids_1T: Tensor
    longest: int
    rows_N: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Layout:
        """Masks in the model's dtype on its device."""
        tiles = tuple(
            Tile(t.start, t.end, t.keys, None if t.mask_QK is None else t.mask_QK.to(device, dtype)) for t in self.tiles
        )
        rows_N = None if self.rows_N is None else self.rows_N.to(device)
        return Layout(tiles, self.position_ids_1T.to(device), self.longest, rows_N)


def _ancestry(nodes: Sequence[Node], i: int) -> list[int]:
    """Node indices from the root down to ``i``."""
    path = [i]
    while (i := nodes[i].parent) >= 0:
        path.append(i)
    return path[::-1]


def _merge(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    for start, end in sorted(set(ranges)):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return tuple(out)


def _length(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in ranges)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Queries [start, end) of one node, the key ranges they see, and how many scores that is."""

    start: int
    end: int
    node: int
    keys: tuple[tuple[int, int], ...]

    @property
    def area(self) -> int:
        return (self.end - self.start) * _length(self.keys)


def layout(nodes: Sequence[Node]) -> Layout:
    """Plan the attention of a forest.

    A long node is cut into blocks of queries, as the first ones need few keys. Neighbouring pieces are gathered into
    tiles while the scores computed in vain stay few: a call per tiny node would cost more than the waste.

    Args:
        nodes: In depth-first order, together covering [0, T) without gaps.
    """
    paths = [_ancestry(nodes, i) for i in range(len(nodes))]
    above = [[(nodes[j].start, nodes[j].end) for j in path[:-1]] for path in paths]
    depths = [_length(ranges) for ranges in above]
    positions = torch.cat([torch.arange(d, d + n.end - n.start) for d, n in zip(depths, nodes, strict=True)])
    groups: list[list[_Piece]] = []
    needed = 0
    for piece in _pieces(nodes, above):
        if groups:
            keys = _merge([r for p in (*groups[-1], piece) for r in p.keys])
            merged = (piece.end - groups[-1][0].start) * _length(keys)
            if merged <= max(TILE_AREA, TILE_WASTE * (needed + piece.area)):
                groups[-1].append(piece)
                needed += piece.area
                continue
        groups.append([piece])
        needed = piece.area
    token_node = torch.cat([torch.full((n.end - n.start,), i) for i, n in enumerate(nodes)])
    related = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
    for i, path in enumerate(paths):
        related[i, path] = True
    tiles = tuple(_tile(group, token_node, related) for group in groups)
    return Layout(tiles, positions[None], int(positions.max()) + 1)


def _pieces(nodes: Sequence[Node], above: Sequence[Sequence[tuple[int, int]]]) -> Iterator[_Piece]:
    for i, node in enumerate(nodes):
        blocks = max(1, round((node.end - node.start) / QUERY_BLOCK))
        cuts = [node.start + (node.end - node.start) * b // blocks for b in range(blocks + 1)]
        for start, end in pairwise(cuts):
            yield _Piece(start, end, i, _merge([*above[i], (node.start, end)]))


def _tile(group: Sequence[_Piece], token_node: Tensor, related: Tensor) -> Tile:
    start, end = group[0].start, group[-1].end
    keys = _merge([r for piece in group for r in piece.keys])
    if keys == ((start, end),) and len({piece.node for piece in group}) == 1:
        return Tile(start, end, keys, None)
    q = torch.arange(start, end)
    k = torch.cat([torch.arange(a, b) for a, b in keys])
    allowed = related[token_node[q]][:, token_node[k]] & (k[None] <= q[:, None])
    mask = torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))
    return Tile(start, end, keys, mask)


# A layout is Python objects, of another length in every batch: compiled layers call this as it is (torch types no decorator).
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    flat: Any = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The registered attention function. ``flat`` is a ``Layout`` or anything with an ``attend`` method, which is told how
    many tokens back the layer sees (the token itself counted; None: all), unless ``flat.longest`` says it does not matter."""
    if flat is None:
        raise ModelError(
            f"{type(module).__name__} does not pass keyword arguments on to its attention",
            hint="train it with train.memory.padding_free=false",
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = sliding_window or _window(module)
    if window is not None and getattr(flat, "longest", 0) > window:
        raise ModelError(
            f"a sequence of {flat.longest} tokens is longer than this model's sliding window of {window}",
            hint="lower train.max_length_tokens, or set train.memory.padding_free=false",
        )
    if isinstance(flat, Layout):
        return attend(query, key, value, flat, scale), None
    out: Tensor = flat.attend(module.layer_idx, query, key, value, scale, window)
    return out, None


def _window(module: Any) -> int | None:
    """Of a layer whose model says it to transformers' masks alone: how many tokens back it sees, itself counted."""
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    sliding = kinds and kinds[module.layer_idx] == "sliding_attention"
    return module.config.sliding_window if sliding else None


def register() -> None:
    """Make ``ATTENTION`` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout is the mask."""


def causal_model(model: nn.Module) -> nn.Module:
    """The transformers model that holds the output head, also inside a PEFT wrapper."""
    inner: Any = model
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # type: ignore[no-any-return]


def backbone(model: nn.Module) -> nn.Module:
    """The decoder below the output head, also inside a PEFT wrapper."""
    inner: Any = causal_model(model)
    return inner.get_decoder()  # type: ignore[no-any-return]


def hidden_states(model: nn.Module, input_ids_1T: Tensor, plan: Any) -> Tensor:
    """Last hidden states 1 x T x C of a flat row. ``plan`` is a Layout, or has ``position_ids_1T`` and ``attend``.

    Under a Layout the virtual tokens of prefix and prompt tuning come in front of every row (virtual.py).
    """
    from tuneloop.models.virtual import hidden_states_under, virtual_tokens

    if isinstance(plan, Layout) and (virtual := virtual_tokens(model)) is not None:
        return hidden_states_under(model, virtual, input_ids_1T, plan)
    out = backbone(model)(
        input_ids=input_ids_1T, position_ids=plan.position_ids_1T, use_cache=False, attention_mask=None, flat=plan
    )
    return out.last_hidden_state  # type: ignore[no-any-return]
