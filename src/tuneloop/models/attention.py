"""Attention of a flat row, tile by tile; on a CPU as one function: no gradients full of zeros between tiles."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from tuneloop.models.flat import Layout

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

KEPT_AREA = 1 << 14
"""Queries x keys up to which a tile keeps its probabilities: plain products then take two thirds of the time of
PyTorch's fused backward pass, which computes them again (half for grouped heads, whose keys it must see repeated)."""

_EXACT = (torch.float32, torch.float64)


def fits(q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor) -> bool:
    """Whether ``Tiled`` can compute this: PyTorch's fused attention on a CPU wants heads of one width, and plain products
    in 16 bits would round the scores."""
    return (
        q_1HTD.device.type == "cpu"
        and (q_1HTD.dtype in _EXACT or q_1HTD.shape[-1] == v_1GTD.shape[-1])
        and q_1HTD.dtype == k_1GTD.dtype == v_1GTD.dtype
        and not torch.is_autocast_enabled("cpu")
    )


def gather(x_GTD: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """The tokens of some ranges, one after another; dimensions in front of heads are kept."""
    if len(ranges) == 1:
        return x_GTD[..., ranges[0][0] : ranges[0][1], :]
    return torch.cat([x_GTD[..., a:b, :] for a, b in ranges], dim=-2)


def attend(q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, plan: Layout, scaling: float) -> Tensor:
    """Attention of a flat row: H query heads over G key heads; the result is 1 x T x H x Dv."""
    if fits(q_1HTD, k_1GTD, v_1GTD):
        return Tiled.apply(q_1HTD, k_1GTD, v_1GTD, plan, scaling)  # type: ignore[no-any-return, no-untyped-call]
    heads, groups = q_1HTD.shape[1], k_1GTD.shape[1]
    repeat = heads // groups
    out: list[Tensor] = []
    for tile in plan.tiles:
        q = q_1HTD[:, :, tile.start : tile.end]
        k, v = gather(k_1GTD, tile.keys), gather(v_1GTD, tile.keys)
        if repeat > 1:
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        o = scaled_dot_product_attention(q, k, v, attn_mask=tile.mask_QK, is_causal=tile.mask_QK is None, scale=scaling)
        out.append(o)
    whole = out[0] if len(out) == 1 else torch.cat(out, dim=2)
    return whole.transpose(1, 2).contiguous()


class Tiled(torch.autograd.Function):
    """softmax(q k^T scaling + mask) v tile by tile; H = G x R query heads over G key heads; the result is 1 x T x H x Dv.

    Of a tile are kept its probabilities (G x RQ x K) where it is small, and otherwise the logarithm of their sums.
    """

    @staticmethod
    def forward(ctx: Any, q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, plan: Layout, scaling: float) -> Tensor:
        heads, tokens = q_1HTD.shape[1:3]
        k_GTD, v_GTD = k_1GTD[0], v_1GTD[0]
        q_GRTD = q_1HTD[0].view(len(k_GTD), -1, *q_1HTD.shape[2:])
        out_1THD = q_1HTD.new_empty(1, tokens, heads, v_GTD.shape[-1])
        out_GRTD = _grouped(out_1THD, len(k_GTD))
        kept, trains = [], any(ctx.needs_input_grad)  # where nothing trains, nothing is held
        for tile in plan.tiles:
            q_GRQD = q_GRTD[:, :, tile.start : tile.end]
            k_GKD, v_GKD = gather(k_GTD, tile.keys), gather(v_GTD, tile.keys)
            compute = _by_products if _small(q_GRQD, k_GKD, v_GKD) else _fused
            out_GRTD[:, :, tile.start : tile.end], keep = compute(q_GRQD, k_GKD, v_GKD, tile.mask_QK, scaling)
            kept.append(keep if trains else None)
        ctx.save_for_backward(q_GRTD, k_GTD, v_GTD, out_1THD, *kept)
        ctx.plan, ctx.scaling = plan, scaling
        return out_1THD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q_GRTD, k_GTD, v_GTD, out_1THD, *kept = ctx.saved_tensors
        g_GRTD, out_GRTD = (_grouped(x_1THD, len(k_GTD)) for x_1THD in (gradients[0], out_1THD))
        q_gradient = torch.empty_like(q_GRTD)
        k_gradient, v_gradient = torch.zeros_like(k_GTD), torch.zeros_like(v_GTD)
        for tile, keep in zip(ctx.plan.tiles, kept, strict=True):
            q_GRQD, g_GRQD, out_GRQD = (x[:, :, tile.start : tile.end] for x in (q_GRTD, g_GRTD, out_GRTD))
            k_GKD, v_GKD = gather(k_GTD, tile.keys), gather(v_GTD, tile.keys)
            if _small(q_GRQD, k_GKD, v_GKD):
                dq, dk, dv = _by_products_back(g_GRQD, q_GRQD, k_GKD, v_GKD, keep, ctx.scaling)
            else:
                dq, dk, dv = _fused_back(g_GRQD, q_GRQD, k_GKD, v_GKD, out_GRQD, keep, tile.mask_QK, ctx.scaling)
            q_gradient[:, :, tile.start : tile.end] = dq
            at = 0
            for start, end in tile.keys:
                k_gradient[:, start:end] += dk[:, at : at + end - start]
                v_gradient[:, start:end] += dv[:, at : at + end - start]
                at += end - start
        return q_gradient.flatten(0, 1)[None], k_gradient[None], v_gradient[None], None, None


def _grouped(x_1THD: Tensor, groups: int) -> Tensor:
    """The heads that share a key head beside each other: G x R x T x D, a view."""
    _, tokens, _, width = x_1THD.shape
    return x_1THD.view(tokens, groups, -1, width).permute(1, 2, 0, 3)


def _small(q_GRQD: Tensor, k_GKD: Tensor, v_GKD: Tensor) -> bool:
    """Whether a tile is computed by plain products: small ones, and all of those that the fused one cannot compute."""
    small = q_GRQD.shape[2] * k_GKD.shape[1] <= KEPT_AREA and q_GRQD.dtype in _EXACT
    return small or q_GRQD.shape[-1] != v_GKD.shape[-1]


def _by_products(
    q_GRQD: Tensor, k_GKD: Tensor, v_GKD: Tensor, mask_QK: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """What a tile gives, and its probabilities."""
    repeat, queries = q_GRQD.shape[1:3]
    mask_QK = _causal(queries, q_GRQD.dtype) if mask_QK is None else mask_QK
    score = torch.baddbmm(mask_QK.repeat(repeat, 1), q_GRQD.flatten(1, 2), k_GKD.mT, alpha=scaling)
    p = torch.softmax(score, -1)
    return torch.bmm(p, v_GKD).view(len(p), repeat, queries, -1), p


def _by_products_back(
    g_GRQD: Tensor, q_GRQD: Tensor, k_GKD: Tensor, v_GKD: Tensor, p: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    g, q = g_GRQD.flatten(1, 2), q_GRQD.flatten(1, 2)
    score = torch._softmax_backward_data(torch.bmm(g, v_GKD.mT), p, -1, p.dtype)
    dq = torch.bmm(score, k_GKD).mul_(scaling)
    return dq.view_as(q_GRQD), torch.bmm(score.mT, q).mul_(scaling), torch.bmm(p.mT, g)


def _fused(
    q_GRQD: Tensor, k_GKD: Tensor, v_GKD: Tensor, mask_QK: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """What a tile gives, and the logarithms of the sums below its probabilities; a key head's queries are a batch."""
    k, v = (_shared(x, q_GRQD) for x in (k_GKD, v_GKD))
    out, logsumexp = _forward(q_GRQD, k, v, 0.0, mask_QK is None, attn_mask=mask_QK, scale=scaling)
    return out, logsumexp


def _fused_back(
    g_GRQD: Tensor, q_GRQD: Tensor, k_GKD: Tensor, v_GKD: Tensor, out_GRQD: Tensor, logsumexp: Tensor,
    mask_QK: Tensor | None, scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and values."""
    k, v = (_shared(x, q_GRQD) for x in (k_GKD, v_GKD))
    causal = mask_QK is None
    dq, dk, dv = _backward(g_GRQD, q_GRQD, k, v, out_GRQD, logsumexp, 0.0, causal, attn_mask=mask_QK, scale=scaling)
    return dq, dk.sum(1), dv.sum(1)


def _shared(x_GKD: Tensor, q_GRQD: Tensor) -> Tensor:
    """A key head for each of its query heads: G x R x K x D, a view."""
    return x_GKD[:, None].expand(-1, q_GRQD.shape[1], -1, -1)


@functools.lru_cache(maxsize=64)
def _causal(tokens: int, dtype: torch.dtype) -> Tensor:
    """The additive mask of a plain causal square."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype).triu_(1)
