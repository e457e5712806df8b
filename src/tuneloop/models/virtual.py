"""Virtual tokens in a flat row: prefix tuning and prompt tuning as one more shared beginning.

Prefix tuning (Li & Liang, 2021, arXiv:2101.00190) trains keys and values that every token of every layer sees; prompt
tuning (Lester et al., 2021, arXiv:2104.08691) trains embeddings that run through the model in front of every row. Either
way a row's own positions begin after them, as in PEFT's padded computation, and they stand once for all rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tuneloop.models.attention import attend
from tuneloop.models.flat import Layout, Tile, backbone

KeysValues = tuple[Tensor, Tensor]
"""Of a layer, each 1 x G x P x D."""


@dataclass(frozen=True, slots=True)
class Virtual:
    """P virtual tokens: ``layers[i]`` (prefix) or ``embeddings_PC`` (prompt), never both."""

    tokens: int
    layers: Mapping[int, KeysValues] | None = None
    embeddings_PC: Tensor | None = None


def virtual_tokens(model: nn.Module) -> Virtual | None:
    """What a PEFT model of prefix or prompt tuning puts in front of every row; None for any other model."""
    peft: Any = model
    config = getattr(peft, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    weight = peft.prompt_encoder[peft.active_adapter].embedding.weight.to(next(backbone(model).parameters()).dtype)
    if config.peft_type.value == "PROMPT_TUNING":
        return Virtual(config.num_virtual_tokens, embeddings_PC=weight)
    # PEFT's order: P x (layer, key or value, head, width)
    kinds = weight.view(config.num_virtual_tokens, 2 * config.num_layers, config.num_attention_heads, -1)
    split = kinds.permute(1, 2, 0, 3).unsqueeze(1)
    return Virtual(config.num_virtual_tokens, {i: (split[2 * i], split[2 * i + 1]) for i in range(config.num_layers)})


def under(plan: Layout, tokens: int, dtype: torch.dtype, *, run: bool) -> Layout:
    """The layout of a row whose sequences all begin with ``tokens`` more tokens.

    Args:
        plan: The row without them.
        tokens: P.
        dtype: Of the masks.
        run: They stand in front of the flat row and are queries too; otherwise they are keys only.
    """
    shift = tokens if run else 0
    device = plan.position_ids_1T.device
    tiles = [Tile(0, tokens, ((0, tokens),), None)] if run else []
    for tile in plan.tiles:
        size = tile.end - tile.start
        own = tile.mask_QK
        if own is None:
            own = torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu(1)
        mask = torch.cat([own.new_zeros(size, tokens), own], 1)
        keys = [(0, tokens), *((a + tokens, b + tokens) for a, b in tile.keys)]
        if keys[1][0] == tokens:  # one range instead of two that touch
            keys[:2] = [(0, keys[1][1])]
        tiles.append(Tile(tile.start + shift, tile.end + shift, tuple(keys), mask))
    positions = plan.position_ids_1T + tokens
    if run:
        positions = torch.cat([torch.arange(tokens, device=device)[None], positions], 1)
    asked = rows_asked_for(plan)
    rows = {} if asked is None else {"rows_N": asked + shift}
    return replace(plan, tiles=tuple(tiles), position_ids_1T=positions, longest=plan.longest + tokens, **rows)


def rows_asked_for(plan: Any) -> Tensor | None:
    """The rows of the last layer that a plan asks for, where plans can; None for all."""
    return getattr(plan, "rows_N", None)


class _WithPrefix:
    """Attention of a flat row with a prefix's keys and values in front of each layer's own."""

    def __init__(self, plan: Layout, layers: Mapping[int, KeysValues]) -> None:
        self.plan, self.layers, self.longest, self.rows_N = plan, layers, plan.longest, rows_asked_for(plan)

    def attend(self, layer: int, q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, scaling: float, *_: Any) -> Tensor:
        keys, values = self.layers[layer]
        k, v = torch.cat([keys, k_1GTD], 2), torch.cat([values, v_1GTD], 2)
        return attend(q_1HTD, k, v, self.plan, scaling)


class _Collect:
    """Attention of the virtual tokens alone, whose keys and values are kept."""

    def __init__(self, plan: Layout) -> None:
        self.plan, self.longest = plan, plan.longest
        self.layers: dict[int, KeysValues] = {}

    def attend(self, layer: int, q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, scaling: float, *_: Any) -> Tensor:
        self.layers[layer] = (k_1GTD.contiguous(), v_1GTD.contiguous())
        return attend(q_1HTD, k_1GTD, v_1GTD, self.plan, scaling)


def hidden_states_under(model: nn.Module, virtual: Virtual, input_ids_1T: Tensor, plan: Layout) -> Tensor:
    """Last hidden states 1 x T x C of the real tokens of a flat row, or of those that the plan asks for."""
    decoder: Any = backbone(model)
    dtype = next(decoder.parameters()).dtype
    options = {"use_cache": False, "attention_mask": None}
    if virtual.layers is not None:
        inner = under(plan, virtual.tokens, dtype, run=False)
        flat = _WithPrefix(inner, virtual.layers)
        out = decoder(input_ids=input_ids_1T, position_ids=inner.position_ids_1T, flat=flat, **options)
        return out.last_hidden_state  # type: ignore[no-any-return]
    assert virtual.embeddings_PC is not None
    inner = under(plan, virtual.tokens, dtype, run=True)
    embeds = torch.cat([virtual.embeddings_PC[None], decoder.get_input_embeddings()(input_ids_1T)], 1)
    out = decoder(inputs_embeds=embeds, position_ids=inner.position_ids_1T, flat=inner, **options)
    if rows_asked_for(inner) is not None:
        return out.last_hidden_state  # type: ignore[no-any-return]
    return out.last_hidden_state[:, virtual.tokens :]  # type: ignore[no-any-return]


@torch.no_grad()
def root_keys_values(model: nn.Module) -> tuple[int, dict[int, KeysValues]]:
    """Number of virtual tokens, and what they give every layer (for an engine's cache); (0, {}) without them."""
    virtual = virtual_tokens(model)
    if virtual is None:
        return 0, {}
    if virtual.layers is not None:
        return virtual.tokens, dict(virtual.layers)
    assert virtual.embeddings_PC is not None
    positions = torch.arange(virtual.tokens, device=virtual.embeddings_PC.device)[None]
    collect = _Collect(Layout((Tile(0, virtual.tokens, ((0, virtual.tokens),), None),), positions, virtual.tokens))
    backbone(model)(
        inputs_embeds=virtual.embeddings_PC[None], position_ids=positions, flat=collect, use_cache=False, attention_mask=None
    )  # fmt: skip
    return virtual.tokens, collect.layers
