"""The data stage: read -> steps -> decisions -> split -> records, ledger, summary, report.

Rows travel in parts through the working folder ``tmp``: nothing holds all of them, every finished part is on disk, and
the same command after a kill goes on with the first part that is missing. Parts are worked on in order, so the output
does not depend on who works on them, nor on where a run was interrupted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from tuneloop.data import executors, intake, ledger, makers, personal, phases, report, split, steps, summary, tally
from tuneloop.data.artifact import LEDGER, REPORT, SUMMARY, DataArtifact, load
from tuneloop.data.config import DataConfig
from tuneloop.data.parts import Facts, Work, cut
from tuneloop.data.phases import StepCount, Task
from tuneloop.errors import DataError
from tuneloop.progress import log, track
from tuneloop.rundir import RunDir, disk_error, replacing, sweep
from tuneloop.types import SPLITS, Split


def run(config: DataConfig, out: RunDir, ask: makers.Ask | None = None, asked: str = "") -> DataArtifact:
    """See ``tuneloop.data.run``."""
    stage = _Stage(config, out, ask, asked)
    try:
        stage.clean()
        labels = stage.divide()
        tallies = stage.emit(labels)
    finally:
        stage.executor.close()
    tallies += stage.derive(labels, tallies)
    total = tally.add(tallies)
    ledger.join(stage.work, stage.parts, out)
    ledger.check(out / LEDGER, stage.intake.rows, total["derived"])
    if not total["fates"].get("train"):
        _refuse_nothing(total, out)
    for name in SPLITS:
        _concatenate([stage.work.path(f"out-{name}", part, ".jsonl") for part in stage.parts], out / f"{name}.jsonl")
    found = {"clusters": ledger.clusters(out / LEDGER), "balance": stage.balance, "made": stage.made}
    facts = summary.build(config, stage.intake, stage.counts, stage.notes, total, labels, found)
    out.write_json(SUMMARY, facts)
    for count in stage.counts:
        out.log_metrics(step=count.step, rows=count.rows, seconds=round(count.seconds, 4))
    named = ledger.raw_of(out / LEDGER, report.named_rows(facts, total))
    out.write_text(REPORT, report.render(facts, total, named, _regions(config)))
    stage.work.end()
    _tell(facts, out)
    return load(out)


@dataclass
class _Stage:
    """A data stage at work."""

    config: DataConfig
    out: RunDir
    ask: makers.Ask | None
    asked: str

    def __post_init__(self) -> None:
        makers.build(
            self.config.makers, can_ask=self.ask is not None
        )  # what is missing is said before anything is read
        for step in steps.build(self.config.steps):
            if isinstance(step, steps.StepBase):
                step.prepare()
        sweep(self.out.path)
        self.work = Work(self.out / "tmp")
        self.work.begin(self.config.hash())
        self.plan = phases.segments(self.config.steps)
        self.executor = executors.executor(self.config.executor, self.config.workers or os.cpu_count() or 1)
        self.intake = intake.Intake(self.config, self.work)
        self.parts: list[int] = []
        self.counts: list[StepCount] = []
        self.notes: list[str] = []
        self.balance: list[Facts] = []
        self.made: list[Facts] = []

    def task(self, segment: int, part: int) -> Task:
        return Task(self.work, self.config, self.plan, segment, part)

    def clean(self) -> None:
        """Every segment but its last decision."""
        for k, segment in enumerate(self.plan):
            tasks = (self.task(k, part) for part in (self.intake.parts() if k == 0 else iter(self.parts)))
            marks = self._map(phases.advance, tasks, f"rows-{k}", "cleaning" if k else "")
            if k == 0:
                self.parts = list(range(len(marks)))
                self.counts.append(StepCount("read", self.intake.rows, self.intake.unreadable, 0, 0.0))
            if segment.steps:  # these rows replace the earlier ones
                for phase in (intake.PHASE, *(f"rows-{j}" for j in range(k))):
                    self.work.forget(phase)
            self._count(marks)
            self._heights = [mark["living"] for mark in marks]
            if segment.whole is not None:
                self._decide(k, steps.create(segment.whole.name, segment.whole.options))

    def _map(self, function: Callable[[Task], Facts], tasks: Iterable[Task], phase: str, label: str) -> list[Facts]:
        """Do what is not done yet, and return the counts of all parts in order.

        Args:
            label: For the progress line; empty where the tasks come with their own.
        """
        known: dict[int, Facts] = {}
        order: list[int] = []

        def missing() -> Iterator[Task]:
            for task in tasks:
                order.append(task.part)
                if (mark := self.work.marked(phase, task.part)) is not None:
                    known[task.part] = mark
                else:
                    yield task

        fresh = self.executor.map(function, missing())
        done = iter(list(track(fresh, label, len(self.parts), "parts") if label else fresh))
        return [known[part] if part in known else next(done) for part in order]

    def _count(self, marks: Sequence[Facts]) -> None:
        """Add the parts' counts up, step by step."""
        for nth in zip(*(mark["steps"] for mark in marks), strict=True):
            sums = {key: sum(count[key] for count in nth) for key in ("rows", "dropped", "changed", "seconds")}
            self.counts.append(StepCount(nth[0]["step"], **sums))
        self.notes += dict.fromkeys(note for mark in marks for note in mark["notes"])

    def _decide(self, k: int, step: steps.Step) -> None:
        """Let a step that needs all rows judge them, and cut its verdicts into parts."""
        assert isinstance(step, steps.WholeStep)
        mark = self.work.marked(f"verdict-{k}", -1)
        if mark is None:
            clock = time.perf_counter()
            verdicts = step.decide(self.work.scan(f"digest-{k}", self.parts))
            for part, mine in zip(self.parts, cut(verdicts, self._heights), strict=True):
                if mine.height:
                    self.work.put(f"verdict-{k}", part, mine)
            gone = int(verdicts["reason"].is_not_null().sum())
            notes = [f"{step.name}: {note}" for note in step.notes]
            renamed = int(verdicts["label"].is_not_null().sum()) if "label" in verdicts.columns else 0
            facts = {"dropped": gone, "changed": renamed, "notes": notes, "seconds": time.perf_counter() - clock}
            mark = self.work.mark(f"verdict-{k}", -1, facts)
        self.counts.append(StepCount(step.name, sum(self._heights), mark["dropped"], mark["changed"], mark["seconds"]))
        self.notes += mark["notes"]
        self.work.forget(f"digest-{k}")

    def divide(self) -> tuple[str, ...]:
        """The split: the last decision. Returns the classes of the training split."""
        k = len(self.plan) - 1
        mark = self.work.marked(f"verdict-{k}", -1)
        if mark is None:
            digests = self.work.scan(f"digest-{k}", self.parts)
            decided = split.decide(digests, self.config)
            verdicts = self._spare(decided.verdicts, digests)
            for part, mine in zip(self.parts, cut(verdicts, self._heights), strict=True):
                self.work.put(f"verdict-{k}", part, mine)
            gone = verdicts.filter(pl.col("reason").is_not_null())["step"].value_counts()
            facts = {
                "labels": list(decided.labels),
                "notes": list(decided.notes),
                "dropped": dict(gone.iter_rows()),
                "balance": [found.to_json() for found in decided.balance],
            }
            mark = self.work.mark(f"verdict-{k}", -1, facts)
        rows = sum(self._heights)
        for name, dropped in sorted(mark["dropped"].items(), key=lambda item: item[0] != split.STEP):
            self.counts.append(StepCount(name, rows, dropped, 0, 0.0))
            rows -= dropped
        self.notes += mark["notes"]
        self.balance = mark["balance"]
        return tuple(mark["labels"])

    def _spare(self, verdicts: pl.DataFrame, digests: pl.LazyFrame) -> pl.DataFrame:
        """Drop the training rows that a maker (``balance``) has too many of."""
        if not self.config.makers:
            return verdicts
        named = verdicts.join(digests.select("at", "id", "label").collect(), on="at", maintain_order="left")
        training = named.filter(pl.col("split") == "train").select("id", "label")
        gone = makers.surplus(self.config.makers, training, self.config.seed).rename({"reason": "spared"})
        hit = pl.col("spared").is_not_null()
        return (
            named.join(gone, on="id", how="left", maintain_order="left")
            .with_columns(
                split=pl.when(~hit).then("split"),
                step=pl.when(hit).then(tally.category("spared")).otherwise("step"),
                reason=pl.coalesce("spared", "reason"),
            )
            .select(verdicts.columns)
        )

    def derive(self, labels: tuple[str, ...], tallies: Sequence[Facts]) -> list[Facts]:
        """Let the makers make new training rows out of the training rows; they follow the others as parts of their own."""
        if not self.config.makers:
            return []
        tasks = [self.task(len(self.plan) - 1, part) for part in self.parts]
        around = makers.Around(
            seed=self.config.seed,
            labels=tally.add(tallies)["classes"]["train"],
            cache=self.out.path.parent / "answers",
            ask=self.ask,
            asked=self.asked,
            report=lambda **counts: self.made.append(counts),
            held_out=_Rows(tasks, ("validation", "test")),
        )
        marks = []
        for part, frame in enumerate(makers.run(self.config.makers, _Rows(tasks, ("train",)), around), len(tasks)):
            self.parts.append(part)
            places = pl.Series(["train"], dtype=pl.String).new_from_index(0, frame.height)
            marks.append(phases.emit(self.work, self.config, part, frame, places, labels))
        return marks

    def emit(self, labels: tuple[str, ...]) -> list[Facts]:
        """Write what each part gives."""
        k = len(self.plan) - 1
        tasks = (self.task(k, part) for part in self.parts)
        return self._map(partial(phases.finish, labels=labels), tasks, "ledger", "writing")


@dataclass(frozen=True)
class _Rows:
    """The rows of some splits, part by part, as often as somebody asks."""

    tasks: Sequence[Task]
    splits: tuple[Split, ...]

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return (phases.rows_of(task, self.splits) for task in self.tasks)


def _regions(config: DataConfig) -> tuple[str, ...]:
    """The countries whose phone numbers the report masks: the usual ones, and those of the redact step."""
    chain = steps.build(config.steps)
    return tuple(dict.fromkeys([*personal.REGIONS, *(r for step in chain for r in getattr(step, "regions", ()))]))


def _concatenate(files: Sequence[Any], path: Any) -> None:
    """One file out of several, byte by byte."""
    try:
        with replacing(path) as temporary, temporary.open("wb") as target:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, target, 1 << 20)
    except OSError as error:
        raise disk_error(error, path) from error


def _refuse_nothing(total: Facts, out: RunDir) -> None:
    worst = max(total["dropped"].items(), key=lambda item: item[1], default=None)
    why = f"; most common reason: {worst[0]} ({worst[1]:,} rows)" if worst else ""
    raise DataError(
        f"no row of {total['rows']:,} is left to train on{why}",
        where=str(out / LEDGER),
        hint="the ledger names step and reason of every row; change data.steps or the source",
    )


def _tell(facts: Facts, out: RunDir) -> None:
    n = facts["counts"]
    log(
        f"{n['rows_in']:,} rows in, {n['kept']:,} kept ({', '.join(f'{n[s]:,} {s}' for s in SPLITS)}), {n['dropped']:,} dropped"
    )
    if facts["dropped"]:
        log("  " + ", ".join(f"{k} {v:,}" for k, v in facts["dropped"].items()))
    for warning in facts["warnings"]:
        log(f"warning: {warning}")
    log(f"report: {out / REPORT}")
