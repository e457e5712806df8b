"""Adapters on routed experts without building the adapted experts.

PEFT's ``ParamWrapper`` adds scale x B A to the weights of every expert in each forward pass, used or not, and keeps
the sums for the backward pass: as much memory again as all experts, and a dense gradient to go with it. Here each
expert's rows go through its frozen weight and through its two thin matrices: the same sum, no copy.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Factors(NamedTuple):
    """One adapted stack of E weights: out x in each, A of rank r, B, their scale."""

    weight_EOI: Tensor
    a_EtRI: tuple[Tensor, ...]
    b_EtOR: tuple[Tensor, ...]
    scale: float

    def __call__(self, x_NI: Tensor, expert: int) -> Tensor:
        low_NR = linear(x_NI, self.a_EtRI[expert])
        return linear(x_NI, self.weight_EOI[expert]) + linear(low_NR, self.b_EtOR[expert]) * self.scale


def quicken_experts(model: nn.Module) -> int:
    """Give expert adapters of a PEFT model the form above where the experts are of the usual kind.

    That is: ``gate_up_proj`` (E x 2I x C, gate first) and ``down_proj`` (E x C x I) without biases, both adapted.

    Returns:
        How many stacks of experts were changed; others keep PEFT's own form (same numbers).
    """
    found = [module for name, module in model.named_modules() if name.endswith(".experts") and _usual(module)]
    for module in found:
        module.forward = MethodType(_forward, module)
    return len(found)


def _usual(module: Any) -> bool:
    if not hasattr(module, "parameter_name"):
        return False
    outer, inner, base = module, module.base_layer, module.get_base_layer()
    names = (outer.parameter_name, getattr(inner, "parameter_name", None))
    return (
        names == ("down_proj", "gate_up_proj")
        and inner.base_layer is base
        and base.gate_up_proj.dim() == 3
        and getattr(base, "has_gate", False)
        and getattr(base, "is_concatenated", False)
        and not getattr(base, "is_transposed", True)
        and not getattr(base, "has_bias", True)
    )


def _forward(self: Any, hidden_TC: Tensor, top_k_index_TK: Tensor, top_k_weights_TK: Tensor) -> Tensor:
    """As transformers' experts: each token through its K experts, summed with the router's weights."""
    active, base = self.active_adapters, self.get_base_layer()
    # DeepSpeed ZeRO-3 gathers a module's weights when that module is called, and here the experts' own is not
    apart = hasattr(base.gate_up_proj, "ds_id")
    if apart or self.disable_adapters or self.merged or len(active) != 1 or active[0] not in self.lora_A:
        plain: Tensor = type(self).forward(self, hidden_TC, top_k_index_TK, top_k_weights_TK)
        return plain
    width = top_k_index_TK.shape[-1]
    up, down = _factors(self.base_layer, active[0]), _factors(self, active[0])
    expert_S = top_k_index_TK.reshape(-1)
    order_S = expert_S.argsort(stable=True)
    # an index one past the last expert means "handled by another device": sorted to the end and left out
    counts = torch.bincount(expert_S, minlength=base.num_experts)[: base.num_experts].tolist()
    order_N = order_S[: sum(counts)]
    token_N = order_N // width
    rows = torch.split(hidden_TC.index_select(0, token_N), counts)
    parts = [down(base._apply_gate(up(x, e)), e) for e, x in enumerate(rows) if len(x)]
    if not parts:
        return torch.zeros_like(hidden_TC)
    weighted_NC = torch.cat(parts) * top_k_weights_TK.reshape(-1).index_select(0, order_N)[:, None]
    return torch.zeros_like(hidden_TC).index_add(0, token_N, weighted_NC.to(hidden_TC.dtype))


def _factors(wrapper: Any, adapter: str) -> Factors:
    """``ParamWrapper`` stores A as (E R) x I and B as O x (R E)."""
    weight_EOI = wrapper.get_param()
    a, b = wrapper.lora_A[adapter].weight.to(weight_EOI.dtype), wrapper.lora_B[adapter].weight.to(weight_EOI.dtype)
    experts = wrapper.num_experts
    a_EtRI = a.reshape(experts, -1, a.shape[1]).unbind(0)
    b_EtOR = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1).unbind(0)
    return Factors(weight_EOI, a_EtRI, b_EtOR, float(wrapper.scaling[adapter]))
