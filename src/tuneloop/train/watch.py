"""Warnings with advice while a run goes on, each given once: in the log, in metrics.jsonl and in train.json.

Every rule is a plain function of what metrics.jsonl already holds, so a resumed run reads its own history there and
neither forgets nor repeats itself. The rules, with x the loss and g the gradient norm of a step (before clipping):

    overfitting         over the last 3 validations the validation loss rose twice, by 1 % in all, while the mean
                        training loss of the steps before each of them fell twice
    learning_rate_high  until 20 steps after the warm-up: median of the last 5 x > 1.25 · median of the first 5
    loss_spike          x - m > 6 · 1.4826 · MAD and x > 1.5 m, m and MAD over the 50 steps before (at least 20)
                        (the modified z-score of Iglewicz & Hoaglin, 1993, with 6 in place of its 3.5)
    gradient_explodes   g > 10 · median of g over the 50 steps before (at least 10)
    gradient_vanishes   each of the last 10 g < 1e-4 · median of the first 10, and x > 0.05 nats
    rows_left_out       over 1 % of the training rows are left out
    rows_without_label  rows whose labels are all masked: they cost time and teach nothing
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from tuneloop.progress import log
from tuneloop.rundir import RunDir
from tuneloop.train.sections import OptimizerConfig

ADVICE: Mapping[str, str] = {
    "overfitting": "the best weights are behind: set train.validation.patience=2 (keeps the best), fewer train.epochs, or "
    "more and more varied rows",
    "learning_rate_high": "stop and start again with a third of the rate, or ask: tuneloop train ... --find-learning-rate",
    "loss_spike": "look at the rows of that step (plan.json, tuneloop trace); if it recurs, lower train.learning_rate",
    "gradient_explodes": "clipping holds it (train.optimizer.max_grad_norm); if it recurs, lower the rate or warm up longer",
    "gradient_vanishes": "nothing is learned any more: raise train.learning_rate, or check that what trains reaches the loss",
    "rows_left_out": "see left_out in train.json and report.html of the data stage",
    "rows_without_label": "give these conversations an assistant message, or drop them",
}

Line = Mapping[str, Any]


def warn(out: RunDir, step: int, kind: str, what: str, advice: str | None = None) -> None:
    """Say something once a run."""
    if any(line["warning"] == kind for line in warnings_of(out)):
        return
    advice = advice or ADVICE[kind]
    out.log_metrics(step=step, warning=kind, what=what, advice=advice)
    log(f"  warning: {what}\n  advice: {advice}")


def warnings_of(out: RunDir) -> list[Line]:
    """The warnings of a run so far, in order: ``step``, ``warning`` (its kind), ``what``, ``advice``."""
    return [line for line in out.metrics() if "warning" in line]


class Watch:
    """Looks at every step and validation of one stage.

    Args:
        out: The run, whose metrics.jsonl has been cut to the step that it continues from.
        first: Steps of earlier stages: their losses are another story.
        optimizer: How many steps warm up.
        steps: Of this stage.
    """

    def __init__(self, out: RunDir, first: int, optimizer: OptimizerConfig, steps: int) -> None:
        share = math.ceil(steps * optimizer.warmup_ratio)
        self.out, self.warmup = out, share if optimizer.warmup_steps is None else optimizer.warmup_steps
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.validations: list[tuple[float, float]] = []
        self._since: list[float] = []
        self.said = {line["warning"] for line in warnings_of(out)}
        for line in out.metrics():
            if line["step"] > first:
                self._take(line)

    def see(self, step: int, values: Line) -> None:
        """Take note of a line of metrics and warn if it gives reason to. Costs microseconds."""
        self._take(values)
        for kind, what in self._findings(values):
            if kind not in self.said:
                self.said.add(kind)
                warn(self.out, step, kind, f"step {step}: {what}")

    def _take(self, values: Line) -> None:
        if "loss" in values:
            self.losses.append(values["loss"])
            self.norms.append(values["grad_norm"])
            self._since.append(values["loss"])
        if "validation_loss" in values:
            mean = fmean(self._since) if self._since else math.nan
            self.validations.append((values["validation_loss"], mean))
            self._since = []

    def _findings(self, values: Line) -> Iterator[tuple[str, str]]:
        if "loss" in values:
            yield from _of_steps(self.losses, self.norms, self.warmup)
        if "validation_loss" in values and overfits(self.validations):
            (before, _), _, (now, _) = self.validations[-3:]
            yield "overfitting", f"the validation loss rose from {before:.4f} to {now:.4f} while the training loss fell"


def _of_steps(losses: Sequence[float], norms: Sequence[float], warmup: int) -> Iterator[tuple[str, str]]:
    if rate_is_high(losses, warmup):
        yield (
            "learning_rate_high",
            f"the loss rises from the start ({median(losses[:5]):.3f} to {median(losses[-5:]):.3f})",
        )
    if spikes(losses):
        yield "loss_spike", f"the loss jumped to {losses[-1]:.3f} from a median of {median(losses[-51:-1]):.3f}"
    if explodes(norms):
        yield "gradient_explodes", f"gradient norm {norms[-1]:.3g}, median before {median(norms[-51:-1]):.3g}"
    if vanishes(norms, losses):
        yield "gradient_vanishes", f"gradient norm {norms[-1]:.3g}, at the start {median(norms[:10]):.3g}"


def overfits(validations: Sequence[tuple[float, float]]) -> bool:
    """Pairs of (validation loss, mean training loss since the validation before), in order."""
    if len(validations) < 3:
        return False
    (v1, t1), (v2, t2), (v3, t3) = validations[-3:]
    return v1 < v2 < v3 and v3 > 1.01 * v1 and t1 > t2 > t3


def rate_is_high(losses: Sequence[float], warmup: int) -> bool:
    return 10 <= len(losses) <= max(10, warmup + 20) and median(losses[-5:]) > 1.25 * median(losses[:5])


def spikes(losses: Sequence[float]) -> bool:
    before = losses[-51:-1]
    if len(before) < 20:
        return False
    middle = median(before)
    spread = 1.4826 * median(abs(x - middle) for x in before)
    return losses[-1] - middle > 6 * spread and losses[-1] > 1.5 * middle


def explodes(norms: Sequence[float]) -> bool:
    before = norms[-51:-1]
    return len(before) >= 10 and norms[-1] > 10 * median(before) > 0


def vanishes(norms: Sequence[float], losses: Sequence[float]) -> bool:
    return len(norms) >= 20 and max(norms[-10:]) < 1e-4 * median(norms[:10]) and losses[-1] > 0.05


def length_that_keeps(lengths_tokens: Sequence[int], share: float = 0.995) -> int:
    """The smallest ``max_length_tokens`` that keeps this share of the rows."""
    ordered = sorted(lengths_tokens)
    return ordered[min(len(ordered), math.ceil(share * len(ordered))) - 1]


def check_rows(
    out: RunDir, total: int, lengths_tokens: Sequence[int], limit_tokens: int, left_out: Mapping[str, int]
) -> None:
    """Warn when over 1 % of the training rows are left out.

    Args:
        out: The run.
        total: Rows that came.
        lengths_tokens: Of every example (a row may be several) that could be encoded, also those over the limit.
        limit_tokens: ``train.max_length_tokens``.
        left_out: Rows by reason.
    """
    lost, too_long = sum(left_out.values()), sum(n > limit_tokens for n in lengths_tokens)
    if lost <= 0.01 * total:
        return
    advice = None
    if too_long > 0.005 * total:
        advice = (
            f"train.max_length_tokens={length_that_keeps(lengths_tokens)} keeps 99.5 % of them; or train.too_long=split"
        )
    what = f"{lost:,} of {total:,} training rows ({100 * lost / total:.1f} %) are left out"
    warn(out, 0, "rows_left_out", what, advice)
