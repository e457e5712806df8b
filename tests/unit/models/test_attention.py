"""Attention of a flat row against the same written out, in float64: small tiles, large ones, grouped heads, two widths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tuneloop.models import Forest, layout
from tuneloop.models.attention import KEPT_AREA, Tiled, attend


def written_out(q_1HTD: Tensor, k_1GTD: Tensor, v_1GTD: Tensor, forest: Forest, scaling: float) -> Tensor:
    """Every row alone: softmax over the tokens up to each."""
    repeat = q_1HTD.shape[1] // k_1GTD.shape[1]
    k_1HTD, v_1HTD = (x.repeat_interleave(repeat, 1) for x in (k_1GTD, v_1GTD))
    out = torch.zeros(1, q_1HTD.shape[2], q_1HTD.shape[1], v_1GTD.shape[-1], dtype=q_1HTD.dtype)
    for places in forest.places:
        at = torch.tensor(places)
        score = q_1HTD[0, :, at] @ k_1HTD[0, :, at].transpose(1, 2) * scaling
        later = torch.ones(len(at), len(at), dtype=torch.bool).triu(1)
        p = score.masked_fill(later, float("-inf")).softmax(-1)
        out = out.index_copy(1, at, (p @ v_1HTD[0, :, at]).transpose(0, 1)[None])
    return out


@pytest.mark.parametrize(("heads", "groups", "width", "value_width"), [(4, 4, 8, 8), (6, 2, 8, 8), (4, 4, 12, 8)])
@pytest.mark.parametrize("shared", [11, 360])
def test_rows_attend_as_if_alone(heads: int, groups: int, width: int, value_width: int, shared: int) -> None:
    torch.manual_seed(0)
    start = list(range(1, shared + 1))
    forest = Forest.grow([[*start, 1000 * i, *range(20 + 7 * i)] for i in range(1, 5)])
    plan = layout(forest.nodes).to(torch.device("cpu"), torch.float64)
    areas = [(t.end - t.start) * sum(b - a for a, b in t.keys) for t in plan.tiles]
    assert (max(areas) > KEPT_AREA) == (shared == 360)
    assert min(areas) <= KEPT_AREA
    tokens = len(forest.tokens)
    shapes = ((heads, width), (groups, width), (groups, value_width))
    leaves = [torch.randn(1, tokens, h, d, dtype=torch.float64, requires_grad=True) for h, d in shapes]
    given = [x.transpose(1, 2) for x in leaves]
    ours, plain = attend(*given, plan, 0.3), written_out(*given, forest, 0.3)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    towards = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, towards), torch.autograd.grad(plain, leaves, towards), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("value_width", [8, 4])
def test_sixteen_bits_are_near(value_width: int) -> None:
    torch.manual_seed(0)
    forest = Forest.grow([[1, 2, 3, *range(10, 30 + i)] for i in range(3)])
    plan = layout(forest.nodes).to(torch.device("cpu"), torch.bfloat16)
    shapes = ((4, 8), (2, 8), (2, value_width))
    exact = [torch.randn(1, len(forest.tokens), h, d, requires_grad=True) for h, d in shapes]
    short = [x.detach().bfloat16().requires_grad_() for x in exact]
    ours = attend(*(x.transpose(1, 2) for x in short), plan, 0.3)
    plain = written_out(*(x.transpose(1, 2) for x in exact), forest, 0.3)
    torch.testing.assert_close(ours.float(), plain, rtol=0, atol=0.05)
    found = torch.autograd.grad(ours.float().square().sum(), short)
    for a, b in zip(found, torch.autograd.grad(plain.square().sum(), exact), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.1)


def test_where_nothing_trains_nothing_is_held() -> None:
    forest = Forest.grow([list(range(1, 60))])
    plan = layout(forest.nodes).to(torch.device("cpu"), torch.float32)
    q_1HTD, k_1GTD = torch.randn(1, 4, 59, 8), torch.randn(1, 2, 59, 8)
    held: list[Tensor] = []

    class Context:
        needs_input_grad = (False,) * 5

        def save_for_backward(self, *tensors: Tensor | None) -> None:
            held.extend(t for t in tensors[4:] if t is not None)

    Tiled.forward(Context(), q_1HTD, k_1GTD, k_1GTD, plan, 0.3)
    assert not held
