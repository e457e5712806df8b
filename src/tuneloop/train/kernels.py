"""Faster forms of the layers of a decoder: the same numbers within float32 rounding, fewer passes over memory.

``apply(model)`` gives layers of known classes another ``forward``; ``remove`` takes it away. Weights, names and what is
saved stay as they are, and a layer of an unknown class, or one in an unusual state (merged, switched off, with dropout,
under autocast), runs as it is written.

    products   float32 products on a CPU go to oneDNN where MKL, which PyTorch takes, leaves AVX-512 unused
    adapters   y = x W^T + s (x A^T) B^T in one function: it keeps x and x A^T, and W gets no gradient
    norms      RMSNorm keeps its input and one number a token
    gates      SwiGLU keeps its two inputs and computes its activation again
    last layer its output projection and MLP run only where there is a label (``Layout.rows_N``)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tuneloop.models import causal_model

NORMS = frozenset({"LlamaRMSNorm", "Qwen2RMSNorm", "DeepseekV2RMSNorm", "DeepseekV3RMSNorm"})
GATED = frozenset({"LlamaMLP", "Qwen2MLP", "DeepseekV2MLP", "DeepseekV3MLP"})
LAYERS = frozenset({"LlamaDecoderLayer", "Qwen2DecoderLayer", "DeepseekV2DecoderLayer", "DeepseekV3DecoderLayer"})
"""Classes of transformers whose forward is known (tests/invariants/test_kernels.py holds each against the original)."""

SMALLEST = 1 << 14
"""Products of fewer multiplications stay with PyTorch: what they cost is the call."""


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN's float32 product uses wider vectors than MKL's here.

    MKL takes its AVX-512 code only on Intel's processors; oneDNN asks what the processor can do (AMD Zen 5: 200 against
    90 GFLOP/s a core). Decided by the processor's name and not by a stopwatch, so that a resumed run computes the same.
    """
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def product(x_MK: Tensor, w_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x w^T (+ bias) without autograd; any strides."""
    wide = x_MK.shape[0] * x_MK.shape[1] * w_NK.shape[0] >= SMALLEST
    eager = not torch.compiler.is_compiling()  # a program chooses its own products
    if eager and wide and x_MK.dtype == torch.float32 and x_MK.device.type == "cpu" and onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(x_MK, w_NK, bias_N, "none", [], "")  # type: ignore[no-any-return]
    return x_MK @ w_NK.t() if bias_N is None else torch.addmm(bias_N, x_MK, w_NK.t())


class Linear(torch.autograd.Function):
    """x W^T + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        flat_MK = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(flat_MK if ctx.needs_input_grad[1] else None, weight_NK)
        ctx.shape = x.shape
        return product(flat_MK, weight_NK, bias_N).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x_MK, weight_NK = ctx.saved_tensors
        g_MN = gradients[0].reshape(-1, weight_NK.shape[0])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(g_MN, weight_NK.t()).view(ctx.shape) if needs_x else None,
            product(g_MN.t(), x_MK.t()) if needs_weight else None,
            g_MN.sum(0) if needs_bias else None,
        )


class Adapted(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T with W and bias frozen (Hu et al., 2021, arXiv:2106.09685, equation 3)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_NK: Tensor, bias_N: Tensor | None, a_RK: Tensor, b_NR: Tensor, scale: float
    ) -> Tensor:
        flat_MK = x.reshape(-1, x.shape[-1])
        low_MR = product(flat_MK, a_RK)
        ctx.save_for_backward(flat_MK, low_MR, weight_NK, a_RK, b_NR)
        ctx.scale, ctx.shape = scale, x.shape
        y_MN = product(flat_MK, weight_NK, bias_N).addmm_(low_MR, b_NR.t(), alpha=scale)
        return y_MN.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x_MK, low_MR, weight_NK, a_RK, b_NR = ctx.saved_tensors
        g_MN = gradients[0].reshape(-1, weight_NK.shape[0])
        back_MR = product(g_MN, b_NR.t()).mul_(ctx.scale)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = product(g_MN, weight_NK.t()).addmm_(back_MR, a_RK).view(ctx.shape)
        a_gradient = product(back_MR.t(), x_MK.t()) if ctx.needs_input_grad[3] else None
        b_gradient = product(low_MR.t(), g_MN.t()).t().mul(ctx.scale) if ctx.needs_input_grad[4] else None
        return x_gradient, None, None, a_gradient, b_gradient, None


class Norm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight, in float32 (Zhang & Sennrich, 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor, epsilon: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = square.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, inverse, weight_C)
        normed: Tensor = (x * inverse).mul_(weight_C)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, inverse, weight_C = ctx.saved_tensors
        g = gradients[0]
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = (g * x).mul_(inverse).flatten(0, -2).sum(0)
        if not ctx.needs_input_grad[0]:
            return None, weight_gradient, None
        scaled = g * weight_C
        along = (scaled * x).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(-x.shape[-1])
        return scaled.mul_(inverse).addcmul_(x, along), weight_gradient, None


class Gate(torch.autograd.Function):
    """silu(gate) * up (Shazeer, 2020, arXiv:2002.05202: SwiGLU)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gate, up = ctx.saved_tensors
        g = gradients[0]
        return torch.ops.aten.silu_backward(g * up, gate), silu(gate).mul_(g)


def apply(model: nn.Module) -> int:
    """Give the layers of a model their faster forms; returns how many have one. Calling it again changes nothing."""
    inner = causal_model(model)
    forms = {module: form for module in inner.modules() if (form := _form(module)) is not None}
    last = _last_layer(inner)
    if last is not None:
        forms[last] = _narrowed
    for module, form in forms.items():
        if "forward" not in module.__dict__:
            module.forward = MethodType(form, module)
    return len(forms)


def remove(model: nn.Module) -> None:
    """Take the faster forms away."""
    for module in causal_model(model).modules():
        if _made(module) in (_linear, _adapted, _norm, _gated, _narrowed):
            del module.__dict__["forward"]


def narrows(model: nn.Module) -> bool:
    """Whether the last layer of this model gives only the rows that ``Layout.rows_N`` asks for."""
    last = _last_layer(causal_model(model))
    return last is not None and _made(last) is _narrowed


def _made(module: nn.Module) -> Any:
    return getattr(module.__dict__.get("forward"), "__func__", None)


def _last_layer(inner: Any) -> nn.Module | None:
    layers = getattr(inner.get_decoder(), "layers", None)
    last = layers[-1] if layers else None
    known = type(last).__module__.startswith("transformers.models.") and type(last).__name__ in LAYERS
    return last if known else None


def _form(module: nn.Module) -> Callable[..., Tensor] | None:
    kind = type(module)
    if kind is nn.Linear:
        return _linear
    if kind.__name__ == "Linear" and kind.__module__ == "peft.tuners.lora.layer":
        return _adapted
    if kind.__module__.startswith("transformers.models."):
        if kind.__name__ in NORMS:
            return _norm
        if kind.__name__ in GATED and isinstance(getattr(module, "act_fn", None), nn.SiLU | _silu_of_transformers()):
            return _gated
    return None


@functools.cache
def _silu_of_transformers() -> type[nn.Module]:
    from transformers.activations import ACT2CLS

    made = ACT2CLS["silu"]
    kind: type[nn.Module] = made[0] if isinstance(made, tuple) else made
    return kind


def usual(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary tensors of one dtype on one device, outside autocast."""
    there = [t for t in tensors if t is not None]
    first = there[0]
    ordinary = all(type(t) in (Tensor, nn.Parameter) for t in there)
    same = all(t.dtype == first.dtype and t.device == first.device for t in there)
    return ordinary and same and not torch.is_autocast_enabled(first.device.type)


def _linear(self: nn.Linear, input: Tensor) -> Tensor:
    if input.device.type == "cpu" and input.numel() and usual(input, self.weight, self.bias):
        return Linear.apply(input, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]
    return nn.Linear.forward(self, input)


def _adapted(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    plain = type(self).forward
    names = self.active_adapters
    if args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or names[0] not in self.lora_A:
        return plain(self, x, *args, **kwargs)  # type: ignore[no-any-return]
    name = names[0]
    base, a, b = self.base_layer, self.lora_A[name], self.lora_B[name]
    ordinary = (
        type(base) is nn.Linear
        and isinstance(self.lora_dropout[name], nn.Identity)
        and name not in self.lora_variant
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and type(a) is type(b) is nn.Linear
        and a.bias is None
        and b.bias is None
        and x.numel() > 0
        and usual(x, base.weight, base.bias, a.weight, b.weight)
    )
    if not ordinary:
        return plain(self, x)  # type: ignore[no-any-return]
    return Adapted.apply(x, base.weight, base.bias, a.weight, b.weight, self.scaling[name])  # type: ignore[no-any-return, no-untyped-call]


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype == torch.float32 and usual(hidden_states, self.weight):
        return Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-any-return, no-untyped-call]
    return type(self).forward(self, hidden_states)  # type: ignore[no-any-return]


def _gated(self: Any, x: Tensor) -> Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    if not usual(gate, up):
        return type(self).forward(self, x)  # type: ignore[no-any-return]
    return self.down_proj(Gate.apply(gate, up))  # type: ignore[no-any-return, no-untyped-call]


def _narrowed(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    rows_N = getattr(kwargs.get("flat"), "rows_N", None)
    if rows_N is None:
        return type(self).forward(self, hidden_states, **kwargs)  # type: ignore[no-any-return]
    narrow = self.self_attn.o_proj.register_forward_pre_hook(lambda _, given: (given[0].index_select(1, rows_N),))
    try:
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
    finally:
        narrow.remove()
    middle = hidden_states.index_select(1, rows_N) + attended
    return middle + self.mlp(self.post_attention_layernorm(middle))  # type: ignore[no-any-return]
