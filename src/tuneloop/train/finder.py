"""A learning rate from a short sweep (Smith 2017, Cyclical Learning Rates, arXiv:1506.01186, section 3.3).

Starting from the untrained model, each step uses a higher rate, growing by the same factor, from a thousandth of the
method's default to a thousand times it. The loss is smoothed (exponential average with the weight of its start corrected),
and the sweep ends when the smoothed loss is four times its lowest, or not finite.

The rule: of the rates up to the lowest smoothed loss, the suggestion is the one where the smoothed loss falls most steeply by
the logarithm of the rate. There the model learns fastest without yet being thrown off; near the minimum it is about to be.
A sweep that never falls has no suggestion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneloop.errors import DataError
from tuneloop.models import load_model, load_tokenizer
from tuneloop.progress import Progress
from tuneloop.rundir import RunDir
from tuneloop.train.config import DEFAULT_LEARNING_RATE, TrainConfig
from tuneloop.train.rows import tokenise
from tuneloop.train.teaching import open_teacher
from tuneloop.train.texts import open_chat

STEPS = 60
DECADES = 3
"""Powers of ten below and above the default rate."""
SMOOTHING = 0.9
DIVERGED = 4.0
"""The sweep ends when the smoothed loss is this many times its lowest."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rates, losses (nats per label token) and smoothed losses of the steps that were done, and the suggested rate."""

    method: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self, rows: int = 12) -> list[str]:
        """A dozen lines: rate, loss, smoothed loss; the suggestion is marked."""
        marked = self.rates.index(self.suggestion) if self.suggestion in self.rates else -1
        every = max(1, math.ceil(len(self.rates) / rows))
        lines = [f"{'learning rate':>14} {'loss':>9} {'smoothed':>9}"]
        for i, (rate, loss, smooth) in enumerate(zip(self.rates, self.losses, self.smoothed, strict=True)):
            if i % every == 0 or i == marked:
                mark = "  <- steepest descent" if i == marked else ""
                lines.append(f"{rate:>14.2e} {loss:>9.4f} {smooth:>9.4f}{mark}")
        return lines


def find_learning_rate(
    config: TrainConfig,
    model_folder: Path,
    records_folder: Path,
    *,
    seed: int = 0,
    dtype: str = "auto",
    chat_template: str | None = None,
    teacher: Path | None = None,
) -> Sweep:
    """Sweep the learning rate on a model of its own; nothing is written. The same seed gives the same sweep.

    Args:
        config: Of the run; of a staged one the first stage is swept.
        model_folder: The model to start from.
        records_folder: The folder of the data stage.
        seed: Of the adapters' start and the order of rows.
        dtype: Of the weights.
        chat_template: For a tokenizer that has none.
        teacher: The model folder to learn from, for ``objective: distil``.

    Raises:
        DataError: No usable training row.
    """
    import torch

    from tuneloop.train import objectives, stage
    from tuneloop.train.methods import four_bit, prepare

    phase = config.for_a_few_steps().phases()[0]
    tokenizer = load_tokenizer(model_folder)
    chat = open_chat(tokenizer, chat_template, records_folder, config)
    examples = tokenise(chat, records_folder, "train", phase).examples
    if not examples:
        raise DataError("nothing to train on", where=str(records_folder), hint="see report.html there")
    torch.manual_seed(seed)
    student = load_model(model_folder, dtype=dtype, four_bit=four_bit(phase))
    known = open_teacher(phase, teacher, student, tokenizer, examples, RunDir(records_folder), dtype=dtype)
    model = prepare(student, phase)
    endless = phase.model_copy(update={"epochs": float(STEPS), "max_steps": STEPS})
    plan = stage.plan_of(examples, endless, seed)
    steps = [[[examples[i] for i in micro] for micro in step] for step in plan.steps]
    return sweep(model, objectives.create(model, phase, teacher=known), steps, phase)


def sweep(model: Any, objective: Any, steps: Sequence[Sequence[Sequence[Any]]], config: TrainConfig) -> Sweep:
    """The sweep itself, over the micro-batches of each step; the model is trained by it."""
    from tuneloop.train.loop import optimizer_step
    from tuneloop.train.optimise import build_optimizer, trained_parameters

    optimizer = build_optimizer(trained_parameters(model), config)
    rates = ladder(DEFAULT_LEARNING_RATE[config.method], len(steps))
    losses: list[float] = []
    with Progress("trying learning rates", len(steps), "steps") as bar:
        for rate, rows in zip(rates, steps, strict=True):
            loss, _ = optimizer_step(model, objective, optimizer, rows, rate, config.optimizer.max_grad_norm)
            if not math.isfinite(loss):
                break
            losses.append(loss)
            smoothed = smooth(losses)
            bar.update(note=f"{rate:.1e}: loss {loss:.3f}")
            if smoothed[-1] > DIVERGED * min(smoothed):
                break
    done = rates[: len(losses)]
    return Sweep(config.method, done, tuple(losses), smooth(losses), suggest(done, smooth(losses)))


def ladder(default: float, steps: int) -> tuple[float, ...]:
    """Rates from default / 1000 to default · 1000, each the same factor above the one before."""
    return tuple(default * 10 ** (-DECADES + 2 * DECADES * i / max(1, steps - 1)) for i in range(steps))


def smooth(losses: Sequence[float], weight: float = SMOOTHING) -> tuple[float, ...]:
    """Exponential average; divided by 1 - weight^n, it begins at the first loss (Kingma & Ba 2015, Adam, section 3)."""
    out: list[float] = []
    average = 0.0
    for n, loss in enumerate(losses, 1):
        average = weight * average + (1 - weight) * loss
        out.append(average / (1 - weight**n))
    return tuple(out)


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """The rate of the steepest descent (rule in the module's docstring); the slope is the central difference."""
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)

    def slope(i: int) -> float:
        return (smoothed[i + 1] - smoothed[i - 1]) / math.log(rates[i + 1] / rates[i - 1])

    inside = range(1, min(lowest + 1, len(rates) - 1))
    best = min(inside, key=slope, default=None)
    return rates[best] if best is not None and slope(best) < 0 else None


def plot(found: Sweep) -> str:
    """The sweep as an SVG picture: loss over the logarithm of the rate, smoothed loss, suggestion."""
    width, height, left, top, right, bottom = 640, 360, 60, 20, 20, 50
    top_loss = min(max(found.losses), 2 * max(found.losses[0], min(found.smoothed)))
    low, high = min((*found.smoothed, *found.losses)), top_loss
    first, last = math.log10(found.rates[0]), math.log10(found.rates[-1])

    def x(rate: float) -> float:
        return left + (math.log10(rate) - first) / max(last - first, 1e-9) * (width - left - right)

    def y(loss: float) -> float:
        return top + (high - min(loss, high)) / max(high - low, 1e-9) * (height - top - bottom)

    def line(values: Sequence[float], style: str) -> str:
        points = " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v in zip(found.rates, values, strict=True))
        return f'<polyline points="{points}" fill="none" {style}/>'

    def text(px: float, py: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{words}</text>'

    base = height - bottom
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left} {top}V{base}H{width - right}" fill="none" stroke="#888"/>',
        *(text(x(10**e), base + 18, f"1e{e}") for e in range(math.ceil(first), math.floor(last) + 1)),
        *(text(left - 6, y(v) + 4, f"{v:.2f}", "end") for v in (low, (low + high) / 2, high)),
        text((left + width - right) / 2, height - 10, f"learning rate ({found.method}); loss in nats a token"),
        line(found.losses, 'stroke="#9ab" stroke-width="1"'),
        line(found.smoothed, 'stroke="#06c" stroke-width="2"'),
    ]
    if found.suggestion is not None:
        at = x(found.suggestion)
        parts.append(f'<path d="M{at:.1f} {top}V{base}" stroke="#c30" stroke-dasharray="4 3"/>')
        parts.append(text(at + 5, top + 12, f"{found.suggestion:.1e}", "start"))
    return "\n".join([*parts, "</svg>\n"])
