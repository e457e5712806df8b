"""What an evaluation leaves behind, and how it is read again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tuneloop.errors import DataError
from tuneloop.rundir import RunDir, read_json
from tuneloop.types import Interval, Score

RESULT, SCORES, RESPONSES, LIKELIHOODS = "evaluation.json", "scores.jsonl", "responses.jsonl", "likelihoods.jsonl"


class ModelFolder(Protocol):
    """What is written down about a model; ``tuneloop.models.Bundle`` is one."""

    @property
    def path(self) -> Path: ...
    @property
    def precision(self) -> str: ...
    @property
    def version(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is examined. ``label`` is its name in tables: ``base``, ``tuned``, ``compressed``."""

    bundle: ModelFolder
    label: str

    def to_json(self) -> dict[str, str]:
        b = self.bundle
        return {"label": self.label, "path": str(b.path), "precision": b.precision, "version": b.version}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        subject: Label, path, precision and version of the model.
        n: How many questions were asked.
        metrics: Name -> estimate with its interval.
        skipped: Name -> why it was not measured.
        per_class: Class -> ``precision``, ``recall`` and ``f1``; recall's n is how many questions the class has.
        confusion: ``labels`` (rows: right answers), ``columns`` (answers given; the last: no known label), ``counts``.
        facts: Sample, token budget, cut and failed answers, engine.
    """

    subject: Mapping[str, str]
    n: int
    metrics: Mapping[str, Interval]
    skipped: Mapping[str, str] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    confusion: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return _finite(asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Evaluation:
        read = {name: _interval(i) for name, i in found["metrics"].items()}
        classes = {c: {k: _interval(i) for k, i in row.items()} for c, row in found["per_class"].items()}
        return cls(**{**found, "metrics": read, "per_class": classes})


def _finite(value: Any) -> Any:
    """NaN is not JSON: what cannot be computed is null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _interval(found: Mapping[str, Any]) -> Interval:
    values: dict[str, Any] = {k: float("nan") if v is None else v for k, v in found.items()}
    return Interval(**values)


def load(out: RunDir) -> Evaluation:
    """Read a finished evaluation."""
    return Evaluation.from_json(read_json(out / RESULT))


def scores(out: RunDir) -> list[Score]:
    """One score an item and metric (higher is better), in the order of the split."""
    return [Score(row["id"], name, value) for row in rows(out) for name, value in row["scores"].items()]


def rows(out: RunDir) -> Iterator[dict[str, Any]]:
    """The lines of scores.jsonl.

    Raises:
        DataError: The file is missing or broken.
    """
    path = out / SCORES
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise DataError("not valid JSON", where=f"{path}:{number}", hint="run evaluate again") from None
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), hint="run evaluate first") from None
