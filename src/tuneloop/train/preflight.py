"""Before anything is loaded: will the run fit, from the real rows and the real plan, and what to change if it will not."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneloop.errors import DataError, ModelError, ResourceError
from tuneloop.models import (
    Dimensions,
    Forest,
    MemoryEstimate,
    available_bytes,
    dimensions_of,
    find,
    resident_bytes,
    training_memory,
)
from tuneloop.progress import log
from tuneloop.rundir import RunDir
from tuneloop.train import watch
from tuneloop.train.config import LORA_FAMILY, TrainConfig
from tuneloop.train.plan import BatchPlan
from tuneloop.types import Example

RETAINED = 1.5
"""On a CPU activations take this many times their size: the C library keeps part of what it is given back. SmolLM2-135M in
float32 on glibc, estimate over measured peak (VmHWM): adapters 0.97, 0.95, 0.87 at 512, 1,024 and 2,048 tokens a pass,
full 1.09 and 1.13 at 512 and 1,024."""

LOOKED_AT = 64
"""Passes whose shared beginnings are counted: those with the most tokens before sharing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The largest pass of a plan: tokens to compute, of them with a label, and rows."""

    tokens: int
    labelled: int
    rows: int
    longest_row: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a run is expected to take. ``recomputed``: only with activations computed again in the backward pass."""

    estimate: MemoryEstimate
    shape: Shape
    recomputed: bool
    free_bytes: int | None

    @property
    def more_bytes(self) -> int:
        """What it takes beyond what this process holds already (Python and PyTorch, counted as runtime)."""
        return self.estimate.total_bytes - min(resident_bytes(), self.estimate.runtime)

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.more_bytes <= self.free_bytes

    def __str__(self) -> str:
        e = self.estimate
        parts = {"weights": e.weights, "gradients": e.gradients, "optimizer": e.optimizer, "activations": e.activations}
        said = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
        how = ", activations recomputed" if self.recomputed else ""
        free = "" if self.free_bytes is None else f"; {self.free_bytes / 1e9:.1f} GB may be taken"
        return (
            f"about {e.total_bytes / 1e9:.2f} GB ({said}) for passes of up to {self.shape.tokens:,} tokens{how}{free}"
        )


def check(
    config: TrainConfig,
    model_folder: Path,
    examples: Sequence[Example],
    plans: Sequence[BatchPlan],
    out: RunDir,
    dtype: str = "auto",
) -> Need | None:
    """Say what the run needs, or refuse it. Nothing is loaded.

    Args:
        config: Of the whole run; of a staged one the stage that needs most counts.
        model_folder: The model to start from.
        examples: Training rows.
        plans: Of each stage.
        out: The run; the estimate goes into its metrics.
        dtype: As for ``tuneloop.models.load_model``.

    Returns:
        The estimate, or None for an architecture that has none.

    Raises:
        DataError: A step of a plan has no token with a label.
        ResourceError: It does not fit and ``train.memory.over_budget`` is ``refuse``; the hint says what would.
    """
    _check_labels(examples, plans, out)
    phases = config.phases()
    shapes = [largest_pass(examples, plan, phase) for plan, phase in zip(plans, phases, strict=True)]
    device = _device()
    try:
        needs = [need_of(p, model_folder, s, device, dtype) for p, s in zip(phases, shapes, strict=True)]
    except ModelError as error:
        log(f"  no memory estimate: {error.what}")
        return None
    worst = max(needs, key=lambda n: n.more_bytes)
    log(f"  memory: {worst}")
    if not any("estimated_memory_bytes" in line for line in out.metrics()):
        out.log_metrics(step=0, estimated_memory_bytes=worst.estimate.total_bytes)
    if not worst.fits:
        phase = phases[needs.index(worst)]
        _refuse(worst, list(_ways_out(phase, model_folder, worst, device, dtype)), config)
    return worst


def estimated_bytes(out: RunDir) -> int | None:
    """The estimate of a run's memory, as ``check`` wrote it."""
    return next((line["estimated_memory_bytes"] for line in out.metrics() if "estimated_memory_bytes" in line), None)


def largest_pass(examples: Sequence[Example], plan: BatchPlan, config: TrainConfig) -> Shape:
    """The pass with the most tokens to compute: padded, flat, or flat with shared beginnings counted once."""
    memory = config.memory
    passes = {micro for step in plan.steps for micro in step}

    def lengths(micro: tuple[int, ...]) -> list[int]:
        return [len(examples[i].input_ids) for i in micro]

    def tokens(micro: tuple[int, ...]) -> int:
        if not memory.padding_free:
            return len(micro) * max(lengths(micro))
        if not memory.share_prefixes:
            return sum(lengths(micro))
        return len(Forest.grow([examples[i].input_ids for i in micro]).tokens)

    candidates = sorted(passes, key=lambda m: (-sum(lengths(m)), m))[:LOOKED_AT] if memory.padding_free else passes
    found = [Shape(tokens(m), sum(examples[i].label_tokens for i in m), len(m), max(lengths(m))) for m in candidates]
    return max(found, key=lambda s: (s.tokens, s.labelled))


def need_of(config: TrainConfig, model_folder: Path, shape: Shape, device: str, dtype: str = "auto") -> Need:
    """Memory of one stage.

    Raises:
        ModelError: The model's configuration does not say its sizes.
    """
    free = available_bytes(device)
    if (budget := config.memory.budget_gb) is not None:
        free = int(budget * 1e9) if free is None else min(free, int(budget * 1e9))
    sizes = dimensions_of(model_folder)
    kind = dtype if dtype != "auto" else "float32" if device == "cpu" else "bfloat16"
    setting = config.memory.checkpointing

    def made(recompute: bool) -> Need:
        found = training_memory(
            model_folder,
            _formula(config),
            batch_tokens=shape.tokens,
            labelled_tokens=shape.labelled,
            lora_rank=config.lora.rank,
            trained_layers=_trained_layers(config),
            checkpointing=recompute,
            dtype=kind,
            optimizer=config.optimizer.name,
            averaged=config.optimizer.ema_decay > 0,
            trained_parameters=_trained(config, sizes),
        )
        kept = int(found.activations * (RETAINED if device == "cpu" else 1)) + _besides(config, sizes, shape)
        return Need(replace(found, activations=kept), shape, recompute, free)

    first = made(setting == "on")
    return made(True) if setting == "auto" and not first.fits else first


def _formula(config: TrainConfig) -> Any:
    if config.method in LORA_FAMILY:
        return "qlora" if config.method == "qlora" else "lora"
    return {"freeze": "freeze", "prefix": "lora", "prompt": "lora"}.get(config.method, "full")


def _trained_layers(config: TrainConfig) -> int | None:
    """Layers at the end that gradients reach; None for all."""
    if config.method == "freeze":
        return max(1, config.freeze.last_layers)
    return config.lora.last_layers if config.method in LORA_FAMILY else None


def _trained(config: TrainConfig, s: Dimensions) -> int | None:
    """Parameters that train, where the method's own formula in ``models.memory`` does not know."""
    if config.method == "prompt":
        return config.prefix.tokens * s.hidden
    if config.method == "prefix":
        return config.prefix.tokens * 2 * s.layers * s.kv_heads * s.head_dim
    if config.method == "select":
        return config.select.layers * (4 * s.hidden * s.heads * s.head_dim + 3 * s.hidden * s.intermediate)
    return None


def _besides(config: TrainConfig, s: Dimensions, shape: Shape) -> int:
    """The padded form keeps all logits and two more of their size; a teacher brings its weights."""
    extra = 0 if config.memory.padding_free else 3 * 4 * shape.tokens * s.vocab
    return extra + (4 * _teacher_parameters(config.distil.teacher) if config.distil else 0)


def _teacher_parameters(teacher: str) -> int:
    if Path(teacher).is_dir():
        return training_memory(Path(teacher), "full", dtype="float32").weights // 4
    entry = find(teacher)
    return entry.parameters if entry else 0


def _ways_out(config: TrainConfig, model: Path, need: Need, device: str, dtype: str) -> Iterator[str]:
    """Settings that would fit, the least painful first."""

    def fits(shape: Shape, changed: TrainConfig = config) -> bool:
        return need_of(changed, model, shape, device, dtype).fits

    rows = config.batch_size
    while rows > 1:
        rows //= 2
        smaller = shrunk(need.shape, math.ceil(need.shape.tokens * rows / config.batch_size))
        if fits(smaller):
            times = config.accumulation_steps * config.batch_size // rows
            yield f"train.batch_size={rows} train.accumulation_steps={times} (same step)"
            break
    tokens = need.shape.tokens
    while (tokens := tokens // 2) >= need.shape.longest_row:
        if fits(shrunk(need.shape, tokens)):
            yield f"train.memory.max_tokens_per_pass={tokens} (same step)"
            break
    if config.memory.checkpointing == "off" and fits(need.shape, _with(config, checkpointing="on")):
        yield "train.memory.checkpointing=on (same loss, slower)"
    if config.method not in LORA_FAMILY and fits(need.shape, config.model_copy(update={"method": "lora"})):
        yield "train.method=lora"


def shrunk(shape: Shape, tokens: int) -> Shape:
    """A pass of fewer tokens, never fewer than its longest row has."""
    tokens = max(tokens, shape.longest_row)
    part = tokens / shape.tokens
    return Shape(tokens, math.ceil(shape.labelled * part), max(1, math.ceil(shape.rows * part)), shape.longest_row)


def _with(config: TrainConfig, **memory: Any) -> TrainConfig:
    return config.model_copy(update={"memory": config.memory.model_copy(update=memory)})


def _refuse(need: Need, ways: Sequence[str], config: TrainConfig) -> None:
    what = f"the training does not fit into memory: {need}"
    advice = (
        "; or ".join(ways)
        or "a smaller model, train.method=lora with a shorter train.max_length_tokens, or more memory"
    )
    # The parts of a sharded model are smaller than the whole: what one process needs is not known here.
    if config.memory.over_budget == "warn" or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        log(f"  warning: {what}\n  advice: {advice}")
        return
    raise ResourceError(what, where="train", hint=f"{advice} (train.memory.over_budget=warn tries anyway)")


def _check_labels(examples: Sequence[Example], plans: Sequence[BatchPlan], out: RunDir) -> None:
    """A row without labels is a cost, a step without labels has no loss."""
    silent = [e.id for e in examples if not e.label_tokens]
    if not silent:
        return
    for plan in plans:
        for number, step in enumerate(plan.steps, 1):
            if not any(examples[i].label_tokens for micro in step for i in micro):
                rows = ", ".join(examples[i].id for micro in step for i in micro[:8])
                raise DataError(
                    f"step {number} has no token to learn: all labels of its rows are masked ({rows})",
                    hint=watch.ADVICE["rows_without_label"],
                )
    watch.warn(out, 0, "rows_without_label", f"{len(silent)} rows have no token to learn, e.g. {silent[0]}")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
