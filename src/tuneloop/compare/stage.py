"""The stage: two lists of scores -> comparison.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tuneloop.compare.config import CompareConfig, Question
from tuneloop.compare.paired import Paired, paired
from tuneloop.compare.verdict import judge
from tuneloop.errors import DataError
from tuneloop.progress import log
from tuneloop.rundir import RunDir, read_json
from tuneloop.stats import holm
from tuneloop.types import Interval, Score, Verdict

RESULT = "comparison.json"
PREFERRED = ("accuracy", "rouge_l")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same items.

    Attributes:
        question: What the gate asked: is the candidate better, or not worse.
        baseline: Name of the one.
        candidate: Name of the other.
        metrics: Every compared metric; the first decides.
        p_holm: Metric -> p-value adjusted for looking at all of them.
        verdict: The gate's answer.
        won: Ids of the items that the candidate does better on the deciding metric.
        lost: Ids of those it does worse.
    """

    question: Question
    baseline: str
    candidate: str
    metrics: Mapping[str, Paired]
    p_holm: Mapping[str, float]
    verdict: Verdict
    won: Sequence[str] = field(default=(), repr=False)
    lost: Sequence[str] = field(default=(), repr=False)

    @property
    def _first(self) -> Paired:
        return self.metrics[self.verdict.metric]

    @property
    def wins(self) -> int:
        return self._first.wins

    @property
    def ties(self) -> int:
        return self._first.ties

    @property
    def losses(self) -> int:
        return self._first.losses

    @property
    def p_value(self) -> float:
        return self._first.p_value

    @property
    def difference(self) -> Interval:
        return self._first.difference

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Comparison:
        verdict = {**found["verdict"], "estimate": Interval(**found["verdict"]["estimate"])}
        metrics = {name: _paired(row) for name, row in found["metrics"].items()}
        return cls(**{**found, "verdict": Verdict(**verdict), "metrics": metrics})


def _paired(row: Mapping[str, Any]) -> Paired:
    intervals = {k: Interval(**row[k]) for k in ("baseline", "candidate", "difference", "bootstrap")}
    return Paired(**{**row, **intervals})


def load(out: RunDir) -> Comparison:
    """Read a finished comparison."""
    return Comparison.from_json(read_json(out / RESULT))


def run(
    config: CompareConfig,
    baseline_scores: Iterable[Score],
    candidate_scores: Iterable[Score],
    out: RunDir,
    *,
    question: Question = "better",
    baseline: str = "base",
    candidate: str = "tuned",
) -> Comparison:
    """Compare two models on the same items and judge.

    Args:
        config: Metrics and gate.
        baseline_scores: Scores of the model that is there (higher is better).
        candidate_scores: Scores of the model that wants to replace it.
        out: Where comparison.json goes.
        question: ``better`` (tuned against base) or ``not worse`` (compressed against tuned).
        baseline: Name in tables.
        candidate: Name in tables.

    Raises:
        DataError: No common metric, or other items.
    """
    a, b = _by_metric(baseline_scores), _by_metric(candidate_scores)
    metrics = _chosen(config, a, b)
    found = {m: paired(m, a[m], b[m], config) for m in metrics}
    adjusted = holm({m: p.p_value for m, p in found.items()})
    first = metrics[0]
    verdict = judge(found[first], question, config, p_adjusted=adjusted[first])
    gain = {i: b[first][i] - x for i, x in a[first].items()}
    result = Comparison(
        question=question,
        baseline=baseline,
        candidate=candidate,
        metrics=found,
        p_holm=adjusted,
        verdict=verdict,
        won=[i for i, g in gain.items() if g > config.tie_margin],
        lost=[i for i, g in gain.items() if g < -config.tie_margin],
    )
    out.write_json(RESULT, result.to_json())
    log(
        f"  {candidate} against {baseline}, {first}: {result.wins} won, {result.ties} tied, {result.losses} lost; "
        f"{verdict.decision}: {verdict.reason}"
    )
    return result


def _by_metric(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.record_id in (items := out.setdefault(score.metric, {})):
            raise DataError(
                f"item {score.record_id} has two scores", where=score.metric, hint="give one score an item and metric"
            )
        items[score.record_id] = score.value
    return out


def _chosen(
    config: CompareConfig, a: Mapping[str, Mapping[str, float]], b: Mapping[str, Mapping[str, float]]
) -> list[str]:
    common = [m for m in a if m in b]
    if missing := [m for m in config.metrics if m not in common]:
        raise DataError(
            f"not measured for both models: {', '.join(missing)}",
            where="compare.metrics",
            hint=f"both have: {', '.join(common) or 'nothing in common'}",
        )
    chosen = list(config.metrics) or [m for m in PREFERRED if m in common][:1] or common[:1]
    if not chosen:
        raise DataError(
            "the two evaluations have no metric in common that scores single answers",
            hint="put accuracy or rouge_l into evaluate.metrics",
        )
    return chosen
