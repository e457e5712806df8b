"""What a step costs, measured: model FLOPs against the machine's own matrix product, memory, and the time that is left.

Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B) divides the operations that a step
needs by what the machine could have done in that time. A matrix of n weights costs a token 2n in the forward pass, 2n for
the gradient of its input and, if it trains, 2n for its own (Kaplan et al. 2020, arXiv:2001.08361, section 2.1): 6 a weight
for full fine-tuning, 4 for a frozen weight above the first that trains plus 6 for those of adapters, 2 below. Attention
costs each layer 2 · heads · (key width + value width) for a query and a key it sees, three times that with gradients. The
output head counts for tokens with a label. Counted are tokens that were computed: what rows share counts once, padding
counts, and what is recomputed to save memory does not.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from tuneloop.errors import ModelError
from tuneloop.models import causal_model, dimensions_of, resident_bytes
from tuneloop.progress import duration, log
from tuneloop.types import Example

MATMUL_S = 0.2
FORECAST_AFTER = 3
"""Steps until the rest is forecast; the first of them, which warms up, does not count."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations of training, forward and backward."""

    per_token: float
    per_label: float
    per_pair: float

    def step(self, tokens: float, labels: float, pairs: float) -> float:
        """Of a step: computed tokens, predictions, and pairs of a query and a key that it sees."""
        return tokens * self.per_token + labels * self.per_label + pairs * self.per_pair


def cost_of(model: nn.Module) -> Cost:
    """What a prepared model costs (formula in the module's docstring).

    Raises:
        ModelError: Its configuration does not say its sizes.
    """
    inner: Any = causal_model(model)
    sizes = dimensions_of(inner.config.get_text_config().to_dict())
    head = inner.get_output_embeddings().weight
    embedded = inner.get_input_embeddings().weight
    share = sizes.active_experts / sizes.experts if sizes.experts else 1.0
    matrices = [(n, p) for n, p in model.named_parameters() if p.dim() >= 2 and p is not head and p is not embedded]
    first = min((_layer(n) for n, p in model.named_parameters() if p.requires_grad and p is not head), default=10**9)
    if embedded.requires_grad:
        first = -1
    per_token = 0.0
    for name, p in matrices:
        if (layer := _layer(name)) >= 0:
            times = 2 + (2 if layer >= first else 0) + (2 if p.requires_grad else 0)
            per_token += times * p.numel() * (share if p.dim() == 3 else 1.0)
    below = 2 if first < 10**9 else 0
    per_label = (2 + below + (2 if head.requires_grad else 0)) * head.numel()
    width = sizes.head_dim + (sizes.v_head_dim or sizes.head_dim)
    factors = sum(3 if layer >= first else 1 for layer in range(sizes.layers))
    return Cost(per_token, float(per_label), float(2 * sizes.heads * width * factors))


def _layer(name: str) -> int:
    """Number of the layer that a parameter is in; the last norm counts as above all, anything else as below all."""
    found = re.search(r"\blayers\.(\d+)\.", name)
    if found:
        return int(found[1])
    return 10**9 if re.search(r"(^|\.)norm\.", name) else -1


@functools.cache
def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Operations a second of this machine's matrix product: the best of several, for about 0.2 s, once a process."""
    n = 8192 if device.startswith("cuda") else 1024
    a = torch.full((n, n), 0.5, device=device, dtype=dtype)  # not random: the run's random numbers are its own
    best, end = float("inf"), time.perf_counter() + MATMUL_S
    while time.perf_counter() < end:
        begun = time.perf_counter()
        torch.mm(a, a)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best


class Gauge:
    """Counts what the decoder computes while it is entered.

    Args:
        model: The prepared model.
    """

    def __init__(self, model: nn.Module) -> None:
        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.model, self.device, self.dtype = model, str(weight.device), weight.dtype
        self.tokens = 0
        self.pairs: float | Tensor = 0.0
        self._done: list[tuple[float, int]] = []
        self._undo: Callable[[], None] | None = None
        try:
            self.cost: Cost | None = cost_of(model)
        except ModelError:  # an architecture without formula trains all the same
            self.cost = None

    def __enter__(self) -> Gauge:
        inner: Any = causal_model(self.model)
        hook = inner.get_decoder().register_forward_pre_hook(self._count, with_kwargs=True)
        self._undo = hook.remove
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._undo is not None:
            self._undo()

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("input_ids")
        given = given if given is not None else kwargs.get("inputs_embeds")
        given = given if given is not None else (args[0] if args else None)
        if not torch.is_grad_enabled() or given is None:  # validation and samples are no part of a step
            return
        rows, length = given.shape[:2]
        self.tokens += rows * length
        where = kwargs.get("position_ids")
        self.pairs = self.pairs + (rows * length * (length + 1) / 2 if where is None else (where + 1).sum())

    def read(self, rows: Sequence[Sequence[Example]], spent_s: float) -> dict[str, float]:
        """Metrics of the step that ended: ``mfu`` (0 … 1) where the architecture is known, ``memory_bytes``."""
        tokens, pairs, self.tokens, self.pairs = self.tokens, float(self.pairs), 0, 0.0
        self._done.append((spent_s, sum(len(e.input_ids) for micro in rows for e in micro)))
        out: dict[str, float] = {"memory_bytes": self.memory_bytes()}
        if self.cost is not None and tokens:
            labels = sum(e.label_tokens for micro in rows for e in micro)
            out["mfu"] = round(self.cost.step(tokens, labels, pairs) / spent_s / self.peak_flops(), 4)
        return out

    def peak_flops(self) -> float:
        return matmul_flops(self.device, self.dtype)

    def memory_bytes(self) -> int:
        """The most that tensors held on the GPU so far; on a CPU what the process holds now."""
        if self.device.startswith("cuda"):
            return int(torch.cuda.max_memory_allocated(self.device))
        return resident_bytes()

    def forecast(self, tokens_left: Callable[[], Sequence[int]]) -> None:
        """After the first steps, say how long the others will take.

        Args:
            tokens_left: Gives the tokens of every step that is still to be done.
        """
        if len(self._done) != FORECAST_AFTER or not (steps_left := tokens_left()):
            return
        seconds, tokens = (sum(x) for x in zip(*self._done[1:], strict=True))
        rest = seconds / tokens * sum(steps_left)
        log(
            f"  measured: {tokens / seconds:,.0f} tokens/s, {seconds / (FORECAST_AFTER - 1):.2f} s a step; about "
            f"{duration(rest)} for the other {len(steps_left):,} steps (without validation); "
            f"memory {self.memory_bytes() / 1e9:.2f} GB"
        )
