"""The loop: batch plan -> steps -> checkpoints. One loop for every method and objective."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn

from tuneloop.errors import Interrupted, ModelError
from tuneloop.progress import Progress, log
from tuneloop.rundir import METRICS, RunDir, write_atomic
from tuneloop.train import checkpoint
from tuneloop.train.config import TrainConfig
from tuneloop.train.objectives import Objective, total_weight
from tuneloop.train.plan import BatchPlan
from tuneloop.types import Example

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a finished loop knows. ``tokens_per_s`` counts real tokens of training steps only."""

    steps: int
    tokens: int
    loss: float
    validation_loss: float | None
    tokens_per_s: float


def fit(
    model: nn.Module,
    objective: Objective,
    examples: Sequence[Example],
    validation: Sequence[Example],
    plan: BatchPlan,
    config: TrainConfig,
    out: RunDir,
) -> Fitted:
    """Train to the end of the plan, from the newest whole checkpoint if there is one.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written.
        ModelError: The loss is not finite; the rows of the step are named.
    """
    optimizer = _optimizer(model, config)
    found = checkpoint.restore(out / CHECKPOINTS, model, optimizer, plan.hash)
    position = found or checkpoint.Position(0, 0, plan.hash)
    last = _cut_metrics(out, position.step)
    if position.step:
        log(f"  continuing after step {position.step} of {len(plan.steps)}")
    train_s = tokens_here = 0.0
    loss = last.get("loss", math.nan)
    validation_loss = last.get("validation_loss")
    with ExitStack() as stack:
        stopped = stack.enter_context(_stop_requests())
        bar = stack.enter_context(Progress("training", len(plan.steps), "steps"))
        board = stack.enter_context(_board(out, config, position.step))
        bar.resume_at(position.step)
        for step in range(position.step, len(plan.steps)):
            start = time.perf_counter()
            rate = learning_rate(step, len(plan.steps), config)
            rows = [[examples[i] for i in micro] for micro in plan.steps[step]]
            loss, norm = _step(model, objective, optimizer, rows, rate, config.max_grad_norm)
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise _not_finite(loss, rows, step, out)
            spent = time.perf_counter() - start
            tokens = sum(len(e.input_ids) for micro in rows for e in micro)
            train_s, tokens_here = train_s + spent, tokens_here + tokens
            position = checkpoint.Position(step + 1, position.tokens + tokens, plan.hash)
            line = {"loss": loss, "learning_rate": rate, "grad_norm": norm, "tokens_per_s": round(tokens / spent, 1)}
            out.log_metrics(step=step + 1, tokens=position.tokens, **line)
            board(step + 1, line)
            bar.update(note=f"loss {loss:.3f} · {tokens_here / train_s:.0f} tokens/s")
            if validation and _validates(step + 1, plan, config):
                validation_loss = evaluate_loss(model, objective, validation, config.batch_size * 4)
                out.log_metrics(step=step + 1, validation_loss=validation_loss)
                board(step + 1, {"validation_loss": validation_loss})
            done = step + 1 == len(plan.steps)
            if stopped() or done or (step + 1) % config.checkpoint_every_steps == 0:
                checkpoint.save(out / CHECKPOINTS, model, optimizer, position, keep=config.keep_checkpoints)
            if stopped() and not done:
                raise Interrupted(
                    f"stopped after step {step + 1} of {len(plan.steps)}; a checkpoint is written",
                    hint="type the same command again to continue",
                )
    speed = tokens_here / train_s if train_s else 0.0
    return Fitted(position.step, position.tokens, loss, validation_loss, round(speed, 1))


def _step(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Sequence[Example]],
    rate: float,
    max_grad_norm: float,
) -> tuple[float, float]:
    """One optimizer step. Every token of the whole step weighs the same, however it was cut into micro-batches."""
    model.train()
    weight = sum(total_weight(micro) for micro in rows)
    total = 0.0
    for micro in rows:
        loss = objective(model, micro) / weight
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    trained = [p for p in model.parameters() if p.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(trained, max_grad_norm))
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Rate of step ``step`` (from 0): linear warm-up, then the schedule, reaching zero after the last step."""
    peak = config.peak_learning_rate
    warmup = math.ceil(steps * config.warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 - done) if config.schedule == "linear" else peak * 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019). Vectors (biases, norms) do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.peak_learning_rate, fused=True)


@torch.no_grad()
def evaluate_loss(model: nn.Module, objective: Objective, examples: Sequence[Example], batch_size: int) -> float:
    """Mean loss per label token over all examples, in nats."""
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    total = 0.0
    for at in range(0, len(order), batch_size):
        total += objective(model, [examples[i] for i in order[at : at + batch_size]]).item()
    return total / total_weight(examples)


def _validates(step: int, plan: BatchPlan, config: TrainConfig) -> bool:
    if config.validate_every_steps:
        return step % config.validate_every_steps == 0 or step == len(plan.steps)
    return step in plan.epoch_ends


def _not_finite(loss: float, rows: Sequence[Sequence[Example]], step: int, out: RunDir) -> ModelError:
    names = [e.id for micro in rows for e in micro]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return ModelError(
        f"the loss of step {step + 1} is {loss} (or its gradient is not finite); rows: {shown}",
        where=str(out / CHECKPOINTS),
        hint="the last checkpoint is kept; lower train.learning_rate, or look at the rows: tuneloop trace " + names[0],
    )


def _cut_metrics(out: RunDir, step: int) -> dict[str, Any]:
    """Drop lines written after the checkpoint that the run continues from; return the last values before it."""
    kept = [line for line in out.metrics() if line["step"] <= step]
    write_atomic(out / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
    return {k: v for line in kept for k, v in line.items()}


@contextmanager
def _stop_requests() -> Iterator[Any]:
    """SIGINT and SIGTERM ask the loop to stop after the current step; a second one acts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])
        log("\n  stopping after this step (once more: at once)")

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _board(out: RunDir, config: TrainConfig, step: int) -> Iterator[Any]:
    """A function (step, values) that writes to TensorBoard."""
    if not config.tensorboard:
        yield lambda _step, _values: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None) as writer:

        def write(at: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(f"train/{name}", value, at)

        yield write
