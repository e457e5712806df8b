"""Cross-entropy of hidden W^T with its gradients, computed in the forward pass: no logit outlives its block."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tuneloop.train.kernels import product

CHUNK = 1024
"""Predictions whose logits are alive at once: 1024 x 129,280 (DeepSeek-V3's vocabulary) in fp32 is 0.5 GB."""

BLOCK = 8192
"""Rows of the head that are worked on at once on a CPU: they and their logits stay in its caches for both products."""


class Wanted(NamedTuple):
    """What a chunk's predictions should have been, how much each counts, and which gradients are asked for."""

    target_N: Tensor
    weight_N: Tensor
    smoothing: float
    learns: bool
    head_learns: bool


class Found(NamedTuple):
    """Summed loss of a chunk and its gradients (None where they are not wanted)."""

    loss: Tensor
    hidden_gradient_NC: Tensor | None
    head_gradient_VC: Tensor | None


class HeadLoss(torch.autograd.Function):
    """Weighted sum of the cross-entropies of hidden W^T. The head's gradient is computed only where the head trains."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, head_VC: Tensor, target_N: Tensor, weight_N: Tensor, smoothing: float, learns: bool
    ) -> Tensor:
        head_learns = learns and ctx.needs_input_grad[1]
        # A rounded probability near 1 less 1 is nothing in 16 bits, so there the target is taken away before rounding.
        in_blocks = hidden_NC.device.type == "cpu" and hidden_NC.dtype in (torch.float32, torch.float64)
        find = _by_blocks if in_blocks else _at_once
        total = hidden_NC.new_zeros((), dtype=torch.promote_types(hidden_NC.dtype, torch.float32))
        hidden_gradient, head_gradient = [], None
        for at in range(0, len(hidden_NC), CHUNK):
            part = slice(at, at + CHUNK)
            wanted = Wanted(target_N[part], weight_N[part], smoothing, learns, head_learns)
            found = find(head_VC, hidden_NC[part], wanted)
            total += found.loss
            if found.hidden_gradient_NC is not None:
                hidden_gradient.append(found.hidden_gradient_NC)
            if found.head_gradient_VC is not None:
                more = found.head_gradient_VC
                head_gradient = more if head_gradient is None else head_gradient.add_(more)
        ctx.gradients = (torch.cat(hidden_gradient), head_gradient) if learns else None
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were taken already, or it was computed without them")
        # Scaled in place, as the head's is as large as the head: so they serve once.
        (hidden_gradient, head_gradient), ctx.gradients = ctx.gradients, None
        for gradient in filter(lambda g: g is not None, (hidden_gradient, head_gradient)):
            gradient.mul_(gradients[0])
        return hidden_gradient, head_gradient, None, None, None, None


def _at_once(head_VC: Tensor, hidden_NC: Tensor, wanted: Wanted) -> Found:
    """The gradient of the logits, softmax - target, is written over them."""
    target_N, weight_N, smoothing, learns, head_learns = wanted
    logits_NV = product(hidden_NC, head_VC).float()
    logsumexp_N1 = logits_NV.logsumexp(-1, keepdim=True)
    loss_N = logsumexp_N1[:, 0] - (1 - smoothing) * logits_NV.gather(1, target_N[:, None])[:, 0]
    if smoothing:
        loss_N -= smoothing * logits_NV.mean(-1)
    loss = (loss_N * weight_N).sum()
    if not learns:
        return Found(loss, None, None)
    gradient_NV = logits_NV.sub_(logsumexp_N1).exp_()
    if smoothing:
        gradient_NV -= smoothing / gradient_NV.shape[1]
    gradient_NV[torch.arange(len(target_N), device=target_N.device), target_N] -= 1 - smoothing
    gradient_NV = gradient_NV.mul_(weight_N[:, None]).to(hidden_NC.dtype)
    head_gradient = product(gradient_NV.t(), hidden_NC.t()) if head_learns else None
    return Found(loss, product(gradient_NV, head_VC.t()), head_gradient)


def _by_blocks(head_VC: Tensor, hidden_NC: Tensor, wanted: Wanted) -> Found:
    """One walk over the head with a running maximum (Milakov & Gimelshein, 2018, arXiv:1805.02867).

    The target's own probability is kept apart, so that 1 - p is a sum of the others and not a difference of near equals.
    """
    target_N, weight_N, smoothing, learns, head_learns = wanted
    highest_N1 = hidden_NC.new_full((len(hidden_NC), 1), -torch.inf)
    others_N1, pulled_NC = torch.zeros_like(highest_N1), torch.zeros_like(hidden_NC)
    logit_N1 = torch.zeros_like(highest_N1)
    p_NV = hidden_NC.new_empty(len(hidden_NC), len(head_VC)) if head_learns else None
    above: list[Tensor] = []
    for number, block_BC in enumerate(torch.split(head_VC, BLOCK)):
        at = BLOCK * number
        p_NB = product(hidden_NC, block_BC)
        inside = torch.nonzero((target_N >= at) & (target_N < at + len(block_BC)))[:, 0]
        logit_N1[inside, 0] = p_NB[inside, target_N[inside] - at]
        above_N1 = torch.maximum(highest_N1, p_NB.amax(-1, keepdim=True))
        p_NB.sub_(above_N1).exp_()
        p_NB[inside, target_N[inside] - at] = 0
        fade_N1 = (highest_N1 - above_N1).exp_()
        others_N1.mul_(fade_N1).add_(p_NB.sum(-1, keepdim=True))
        if learns:
            pulled_NC.mul_(fade_N1).add_(product(p_NB, block_BC.t()))
        highest_N1 = above_N1
        above.append(above_N1)
        if p_NV is not None:
            p_NV[:, at : at + len(block_BC)] = p_NB
    own_N1 = (logit_N1 - highest_N1).exp_()
    mass_N1 = own_N1 + others_N1
    loss_N = (highest_N1 + mass_N1.log() - (1 - smoothing) * logit_N1)[:, 0]
    middle_C = head_VC.mean(0) if smoothing else None
    if middle_C is not None:
        loss_N -= smoothing * (hidden_NC @ middle_C)
    loss = (loss_N * weight_N).sum()
    if not learns:
        return Found(loss, None, None)
    # softmax - target is p / mass for all tokens but the target, and smoothing - others / mass for that.
    short_N1 = others_N1 / mass_N1 - smoothing
    gradient_NC = (pulled_NC / mass_N1).sub_(head_VC[target_N].mul_(short_N1))
    if middle_C is not None:
        gradient_NC -= smoothing * middle_C
    gradient_NC.mul_(weight_N[:, None])
    if p_NV is None:
        return Found(loss, gradient_NC, None)
    for part_NB, above_N1 in zip(torch.split(p_NV, BLOCK, 1), above, strict=True):
        part_NB.mul_((above_N1 - highest_N1).exp_().div_(mass_N1).mul_(weight_N[:, None]))
    each_N1 = smoothing / len(head_VC) * weight_N[:, None]
    if smoothing:
        p_NV -= each_N1
    p_NV[torch.arange(len(target_N)), target_N] = (-short_N1 * weight_N[:, None] - each_N1)[:, 0]
    return Found(loss, gradient_NC, product(p_NV.t(), hidden_NC.t()))
