"""Everything the report says, read from the stage folders. A stage that was not run is None."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneloop.rundir import Run, read_json

Facts = Mapping[str, Any]
SUBJECTS = ("base", "tuned", "compressed")

STAGES = {
    "data": "summary.json",
    "train": "train.json",
    "evaluate-base": "evaluation.json",
    "evaluate-tuned": "evaluation.json",
    "compress": "compress.json",
    "evaluate-compressed": "evaluation.json",
    "serve": "serve.json",
    "compare": "comparison.json",
    "compare-compressed": "comparison.json",
}
"""Stage folder -> the file that holds its result."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """One run as plain facts.

    Attributes:
        stages: Stage -> its result file, for the stages that were finished.
        manifests: Stage -> manifest.json.
        configs: Stage -> the text of config.yaml.
        curve: The lines of train/metrics.jsonl, the last one of each step.
        items: Subject -> record id -> line of scores.jsonl.
        prompts: Record id -> what was asked: (role, text) of each message.
        origins: Record id -> file and line of the raw row.
        licence: Of the base model, where its folder says so.
    """

    root: Path
    stages: Mapping[str, Facts]
    manifests: Mapping[str, Facts]
    configs: Mapping[str, str]
    curve: list[Facts] = field(default_factory=list)
    items: Mapping[str, Mapping[str, Facts]] = field(default_factory=dict)
    prompts: Mapping[str, list[tuple[str, str]]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None

    def stage(self, name: str) -> Facts | None:
        return self.stages.get(name)

    def evaluation(self, subject: str) -> Facts | None:
        return self.stages.get(f"evaluate-{subject}")

    @property
    def subjects(self) -> list[str]:
        return [s for s in SUBJECTS if self.evaluation(s)]

    @property
    def missing(self) -> list[str]:
        return [s for s in STAGES if s not in self.stages]


def gather(run: Run) -> Gathered:
    """Read a run.

    Raises:
        DataError: A result file is not valid JSON.
    """
    stages = {s: read_json(run.dir(s) / f) for s, f in STAGES.items() if (run.dir(s) / f).exists()}
    prompts, origins = _questions(run.dir("data").path)
    base = stages.get("evaluate-base", {}).get("subject", {}).get("path")
    return Gathered(
        root=run.root,
        stages=stages,
        manifests={s: run.dir(s).manifest for s in STAGES if run.dir(s).manifest},
        configs={s: text for s in STAGES if (text := _text(run.dir(s) / "config.yaml"))},
        curve=_curve(run),
        items={s: {r["id"]: r for r in _lines(run.dir(f"evaluate-{s}") / "scores.jsonl")} for s in SUBJECTS},
        prompts=prompts,
        origins=origins,
        licence=_licence(Path(base)) if base else None,
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines; a last line that a crash cut short is passed over."""
    for line in _text(path).split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _curve(run: Run) -> list[Facts]:
    """A resumed training repeats the steps after its checkpoint: the last word of each step counts."""
    merged: dict[int, dict[str, Any]] = {}
    for line in run.dir("train").metrics():
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            merged.setdefault(line["step"], {}).update(line)
    return [merged[step] for step in sorted(merged)]


def _questions(folder: Path) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    prompts: dict[str, list[tuple[str, str]]] = {}
    origins: dict[str, str] = {}
    for split in ("validation", "test"):
        for row in _lines(folder / f"{split}.jsonl"):
            turns = [(m["role"], m["content"]) for m in row["messages"]]
            last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
            prompts[row["id"]], origins[row["id"]] = turns[:last], row.get("origin") or ""
    return prompts, origins


def _licence(base: Path) -> str | None:
    """What the base model's own folder says: our manifest first, then the head of its README."""
    manifest = base / "tuneloop.json"
    if manifest.exists() and (found := read_json(manifest).get("facts", {}).get("licence")):
        return str(found)
    head = _text(base / "README.md").split("---")
    lines = head[1].splitlines() if len(head) > 2 else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), None)
