"""Attention of a flat row, tile by tile; on a CPU as one function: no gradients full of zeros between tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from tuneloop.models.flat import Layout

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def fits(q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor) -> bool:
    """Whether ``Tiled`` can compute this: PyTorch's fused attention on a CPU wants heads of one width."""
    return (
        q_1HTD.device.type == "cpu"
        and q_1HTD.shape[-1] == k_1GTD.shape[-1] == v_1GTD.shape[-1]
        and q_1HTD.dtype == k_1GTD.dtype == v_1GTD.dtype
        and not torch.is_autocast_enabled("cpu")
    )


def gather(x_1GTD: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """The tokens of some ranges, one after another."""
    if len(ranges) == 1:
        return x_1GTD[:, :, ranges[0][0] : ranges[0][1]]
    return torch.cat([x_1GTD[:, :, a:b] for a, b in ranges], dim=2)


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
    """softmax(q k^T scaling + mask) v tile by tile; H query heads over G key heads; the result is 1 x T x H x D."""

    @staticmethod
    def forward(ctx: Any, q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, plan: Layout, scaling: float) -> Tensor:
        heads, tokens = q_1HTD.shape[1:3]
        out_1THD = q_1HTD.new_empty(1, tokens, heads, v_1GTD.shape[-1])
        sums = []
        for tile in plan.tiles:
            k, v = (_repeated(gather(x, tile.keys), heads) for x in (k_1GTD, v_1GTD))
            q, causal = q_1HTD[:, :, tile.start : tile.end], tile.mask_QK is None
            o, logsumexp = _forward(q, k, v, 0.0, causal, attn_mask=tile.mask_QK, scale=scaling)
            out_1THD[:, tile.start : tile.end] = o.transpose(1, 2)
            sums.append(logsumexp)
        ctx.save_for_backward(q_1HTD, k_1GTD, v_1GTD, out_1THD, *sums)
        ctx.plan, ctx.scaling = plan, scaling
        return out_1THD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q_1HTD, k_1GTD, v_1GTD, out_1THD, *sums = ctx.saved_tensors
        heads, groups = q_1HTD.shape[1], k_1GTD.shape[1]
        q_gradient = torch.empty_like(q_1HTD)
        k_gradient, v_gradient = torch.zeros_like(k_1GTD), torch.zeros_like(v_1GTD)
        g_1HTD, out_1HTD = gradients[0].transpose(1, 2), out_1THD.transpose(1, 2)
        for tile, logsumexp in zip(ctx.plan.tiles, sums, strict=True):
            k, v = (_repeated(gather(x, tile.keys), heads) for x in (k_1GTD, v_1GTD))
            g, q, o = (x[:, :, tile.start : tile.end] for x in (g_1HTD, q_1HTD, out_1HTD))
            causal = tile.mask_QK is None
            dq, dk, dv = _backward(g, q, k, v, o, logsumexp, 0.0, causal, attn_mask=tile.mask_QK, scale=ctx.scaling)
            q_gradient[:, :, tile.start : tile.end] = dq
            for whole, part in ((k_gradient, _summed(dk, groups)), (v_gradient, _summed(dv, groups))):
                at = 0
                for start, end in tile.keys:
                    whole[:, :, start:end] += part[:, :, at : at + end - start]
                    at += end - start
        return q_gradient, k_gradient, v_gradient, None, None


def _repeated(x_1GTD: Tensor, heads: int) -> Tensor:
    """Key heads as often as query heads use them."""
    groups = x_1GTD.shape[1]
    return x_1GTD if groups == heads else x_1GTD.repeat_interleave(heads // groups, 1)


def _summed(x_1HTD: Tensor, groups: int) -> Tensor:
    """The gradient of ``_repeated``."""
    heads = x_1HTD.shape[1]
    return x_1HTD if groups == heads else x_1HTD.view(1, groups, heads // groups, *x_1HTD.shape[2:]).sum(2)
