"""The loop: batch plan -> steps -> checkpoints. One loop for every method and objective."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from tuneloop.errors import Interrupted, ModelError
from tuneloop.progress import Progress, log
from tuneloop.rundir import CHECKPOINTS, METRICS, RunDir, write_atomic
from tuneloop.train import checkpoint
from tuneloop.train.companions import Average, Companion, HoldsOptimizer, Patience, tensors_of
from tuneloop.train.config import TrainConfig
from tuneloop.train.gauge import Gauge
from tuneloop.train.methods import companions_of
from tuneloop.train.objectives import Objective, total_weight
from tuneloop.train.oom import Passes
from tuneloop.train.optimise import learning_rate, trained_parameters
from tuneloop.train.parallel.place import Placed
from tuneloop.train.plan import BatchPlan
from tuneloop.train.samples import Sampler
from tuneloop.train.trackers import trackers
from tuneloop.train.watch import Watch
from tuneloop.types import Example

BEST = "best"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a finished loop knows. ``tokens_per_s`` counts real tokens of training steps only; ``best_step`` is the step
    whose weights were kept, when the best were asked for."""

    steps: int
    tokens: int
    loss: float
    validation_loss: float | None
    tokens_per_s: float
    best_step: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stage of a staged run begins: what earlier stages did counts on in the metrics."""

    steps: int = 0
    tokens: int = 0
    folder: str = CHECKPOINTS
    name: str = ""


@dataclass(slots=True)
class Clock:
    """Time and tokens of the training steps of this process."""

    train_s: float = 0.0
    tokens: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def tokens_per_s(self) -> float:
        return round(self.tokens / self.train_s, 1) if self.train_s else 0.0


class Loop:
    """One run over one plan. ``fit`` is the way in."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        examples: Sequence[Example],
        validation: Sequence[Example],
        plan: BatchPlan,
        config: TrainConfig,
        out: RunDir,
        start: Start,
        sampler: Sampler | None = None,
        placed: Placed | None = None,
    ) -> None:
        self.placed = placed or Placed(model)
        self.world = self.placed.world
        self.model, self.objective, self.plan, self.config = model, objective, plan, config
        self.examples, self.validation, self.out, self.start = examples, validation, out, start
        self.sampler, self.passes, self.gauge = sampler, Passes(), Gauge(model)
        self.parameters = trained_parameters(model)
        self.patience = Patience(config.validation)
        self.average = Average(self.parameters, config.optimizer.ema_decay) if config.optimizer.ema_decay else None
        own: list[Companion] = [self.patience, self.passes, *([self.average] if self.average else [])]
        self.companions = [*own, *companions_of(model, objective, examples, config)]
        self.optimizer = self.placed.optimizer(self.parameters, config)
        self.holders = [c for c in self.companions if isinstance(c, HoldsOptimizer)]
        for holder in self.holders:
            holder.attach(self.optimizer)
        self.live = checkpoint.Live(self.parameters, self.optimizer, self.companions)
        self.folder = Path(out.path) / start.folder
        self.clock = Clock()
        self.loss, self.validation_loss = math.nan, None
        self.best: float | None = None

    loss: float
    validation_loss: float | None

    def run(self) -> Fitted:
        total = len(self.plan.steps)
        position = checkpoint.restore(self.folder, self.live, self.plan.hash, self.world)
        self.position = position or checkpoint.Position(0, 0, self.plan.hash)
        first = self.position.step
        last = self.world.from_main(lambda: _cut_metrics(self.out, self.start.steps + first))
        self.loss, self.validation_loss = last.get("loss", math.nan), last.get("validation_loss")
        self.watch = Watch(self.out, self.start.steps, self.config.optimizer, total)
        if self.sampler:
            self.sampler.resume_at(self.start.steps + first)
        if first:
            log(f"  continuing after step {first} of {total}")
        with ExitStack() as stack:
            self.stopped = stack.enter_context(_stop_requests(twice=self.world.alone))
            bar = stack.enter_context(Progress(self.start.name or "training", total, "steps"))
            if self.world.is_main:
                self.track = stack.enter_context(trackers(self.out, self.config, self.start.steps + first))
            stack.enter_context(self.gauge)
            bar.resume_at(first)
            for step in range(first, total):
                if self.patience.exhausted:
                    break
                self._step(step)
                bar.update(note=f"loss {self.loss:.3f} · {self.clock.tokens_per_s:.0f} tokens/s")
                self._after(step)
        return self._finish()

    def _step(self, step: int) -> None:
        begun = time.perf_counter()
        for companion in self.companions:
            companion.before_step(step)
        rate = learning_rate(step, len(self.plan.steps), self.config)
        rows = [[self.examples[i] for i in micro] for micro in self.plan.steps[step]]
        limit = self.config.optimizer.max_grad_norm

        def attempt(passes: Sequence[Sequence[Example]]) -> tuple[float, float]:
            return optimizer_step(self.model, self.objective, self.optimizer, passes, rate, limit, self.placed)

        self.loss, norm = self.passes.attempt(self.optimizer, rows, attempt)
        if not math.isfinite(self.loss) or not math.isfinite(norm):
            raise _not_finite(self.loss, rows, self.start.steps + step, self.folder)
        for companion in self.companions:
            companion.after_step(step)
        spent = time.perf_counter() - begun
        tokens = sum(len(e.input_ids) for micro in rows for e in micro)
        self.clock.train_s += spent
        self.clock.tokens += tokens
        self.position = checkpoint.Position(step + 1, self.position.tokens + tokens, self.plan.hash)
        measured = self.gauge.read(rows, spent)
        self._log(loss=self.loss, learning_rate=rate, grad_norm=norm, tokens_per_s=round(tokens / spent, 1), **measured)
        self.gauge.forecast(lambda: [self._tokens_of(later) for later in self.plan.steps[step + 1 :]])

    def _tokens_of(self, step: Sequence[Sequence[int]]) -> int:
        return sum(len(self.examples[i].input_ids) for micro in step for i in micro)

    def _after(self, step: int) -> None:
        """Validate and save where it is due, and stop where it was asked for."""
        total = len(self.plan.steps)
        if self.validation and _validates(step + 1, self.plan, self.config):
            self._validate()
        minutes = (time.monotonic() - self.clock.saved_at) / 60
        settings = self.config.checkpoint
        stopped, late = self.world.any(self.stopped(), minutes >= settings.every_minutes)  # a signal to one is for all
        due = (step + 1) % settings.every_steps == 0 or late
        if stopped or step + 1 == total or due or self.patience.exhausted:
            checkpoint.save(self.folder, self.live, self.position, keep=settings.keep, world=self.world)
            self.clock.saved_at = time.monotonic()
        if stopped and step + 1 < total:
            raise Interrupted(
                f"stopped after step {step + 1} of {total}; a checkpoint is written",
                hint="type the same command again to continue",
            )

    def _validate(self) -> None:
        with self.averaged():
            self.validation_loss = evaluate_loss(
                self.model, self.objective, self.validation, self.config.batch_size * 4, self.placed
            )
            self._log(validation_loss=self.validation_loss)
            if self.sampler and self.world.is_main:
                self.sampler.ask(self.model, self.start.steps + self.position.step)
            better = self.patience.improved(self.world.from_main(self._watched), self.position.step)
            if better and self.config.validation.keeps_best:
                facts = {"step": self.position.step, "plan_hash": self.plan.hash, "loss": self.validation_loss}
                tensors = tensors_of(self.parameters, keep=self.world.is_main)
                self.world.from_main(lambda: checkpoint.save_weights(self.folder / BEST, tensors, facts))
        if self.patience.exhausted:
            log(
                f"  stopping early: {self.config.validation.metric} was best after step "
                f"{self.start.steps + self.patience.best_step} and not better in "
                f"{self.patience.without_improvement} validations"
            )

    def _watched(self) -> float:
        """The newest value of the metric that patience looks at."""
        name = self.config.validation.metric
        if name == "validation_loss" and self.validation_loss is not None:
            return self.validation_loss
        found = [line[name] for line in self.out.metrics() if name in line]
        if not found:
            raise ModelError(
                f"there is no metric {name!r} to watch", where="train.validation.metric", hint="use validation_loss"
            )
        return float(found[-1])

    def averaged(self) -> AbstractContextManager[None]:
        """The model as it would be saved now."""
        return self.average.in_place() if self.average else nullcontext()

    def _finish(self) -> Fitted:
        best_step = None
        for holder in self.holders:
            holder.finish()
        if self.average:
            for name, value in self.average.average.items():
                self.parameters[name].data.copy_(value)
        if self.config.validation.keeps_best and self.patience.best is not None:
            facts = checkpoint.load_weights(self.folder / BEST, self.parameters)
            if facts is None:
                raise ModelError(
                    "the best weights were kept and are damaged now",
                    where=str(self.folder / BEST),
                    hint="remove the stage's folder and train again, or set train.validation.keep=last",
                )
            best_step, self.validation_loss = self.start.steps + facts["step"], facts.get("loss")
        return Fitted(
            self.start.steps + self.position.step,
            self.start.tokens + self.position.tokens,
            self.loss,
            self.validation_loss,
            self.clock.tokens_per_s,
            best_step,
        )

    def _log(self, **values: float) -> None:
        if not self.world.is_main:
            return
        step = self.start.steps + self.position.step
        if "loss" in values:
            self.out.log_metrics(step=step, tokens=self.start.tokens + self.position.tokens, **values)
        else:
            self.out.log_metrics(step=step, **values)
        self.track(step, values)
        self.watch.see(step, values)


def fit(
    model: nn.Module,
    objective: Objective,
    examples: Sequence[Example],
    validation: Sequence[Example],
    plan: BatchPlan,
    config: TrainConfig,
    out: RunDir,
    start: Start | None = None,
    sampler: Sampler | None = None,
    placed: Placed | None = None,
) -> Fitted:
    """Train to the end of the plan, from the newest whole checkpoint if there is one.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written.
        ModelError: The loss is not finite; the rows of the step are named.
    """
    return Loop(model, objective, examples, validation, plan, config, out, start or Start(), sampler, placed).run()


def optimizer_step(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Sequence[Example]],
    rate: float,
    max_grad_norm: float,
    placed: Placed | None = None,
) -> tuple[float, float]:
    """One optimizer step. Every token of the whole step weighs the same, however it was cut into micro-batches and
    whichever process computes it.

    Returns:
        The mean loss per label token (nats) and the norm of the gradient before clipping.
    """
    placed = placed or Placed(model)
    if not model.training:  # to tell every module takes milliseconds
        model.train()
    weight = sum(total_weight(micro) for micro in rows)
    total = 0.0
    for micro, counts in placed.passes(rows):
        loss = placed.loss(objective, micro) / weight * counts
        placed.backward(loss)
        total += loss.item()
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
    norm = placed.update(optimizer, max_grad_norm)
    return placed.total(total), norm


@torch.no_grad()
def evaluate_loss(
    model: nn.Module,
    objective: Objective,
    examples: Sequence[Example],
    batch_size: int,
    placed: Placed | None = None,
) -> float:
    """Mean loss per label token over all examples, in nats."""
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    batches = [[examples[i] for i in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
    return (placed or Placed(model)).evaluate(objective, batches) / total_weight(examples)


def _validates(step: int, plan: BatchPlan, config: TrainConfig) -> bool:
    if every := config.validation.every_steps:
        return step % every == 0 or step == len(plan.steps)
    return step in plan.epoch_ends


def _not_finite(loss: float, rows: Sequence[Sequence[Example]], step: int, kept: Path) -> ModelError:
    names = [e.id for micro in rows for e in micro]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return ModelError(
        f"the loss of step {step + 1} is {loss} (or its gradient is not finite); rows: {shown}",
        where=str(kept),
        hint="the last checkpoint is kept; lower train.learning_rate, or look at the rows: tuneloop trace " + names[0],
    )


def _cut_metrics(out: RunDir, step: int) -> dict[str, Any]:
    """Drop lines written after the checkpoint that the run continues from; return the last values before it."""
    kept = [line for line in out.metrics() if line["step"] <= step]
    write_atomic(out / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
    return {k: v for line in kept for k, v in line.items()}


@contextmanager
def _stop_requests(*, twice: bool = True) -> Iterator[Any]:
    """SIGINT and SIGTERM ask the loop to stop after the current step; a second one acts at once, unless the processes of a
    run get them both directly and from their launcher (``twice=False``)."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.set()
        if twice:
            signal.signal(number, before[signal.Signals(number)])
        log("\n  stopping after this step" + (" (once more: at once)" if twice else ""))

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
