"""What happens to one part: steps, digests, verdicts, output. These functions run in any process, on any machine.

A plan is a list of segments: some row steps, then one decision about all rows. The last decision is the split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import polars as pl

from tuneloop.data import ledger, split, steps, tally
from tuneloop.data.config import DataConfig, StepConfig
from tuneloop.data.frame import SCHEMA, alive, settle
from tuneloop.data.parts import Facts, Work
from tuneloop.data.records import json_lines
from tuneloop.data.steps import Step, WholeStep
from tuneloop.data.steps.redact import Redact
from tuneloop.rundir import write_atomic
from tuneloop.types import SPLITS, Split


@dataclass(frozen=True, slots=True)
class StepCount:
    """What one step did: rows it saw, dropped and changed, and how long it took."""

    step: str
    rows: int
    dropped: int
    changed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Row steps, then a decision about all rows; None stands for the split."""

    steps: tuple[StepConfig, ...]
    whole: StepConfig | None


def segments(chain: Sequence[StepConfig]) -> tuple[Segment, ...]:
    """Cut a chain of steps behind every step that needs all rows."""
    out, rows = [], list[StepConfig]()
    for step in chain:
        if isinstance(steps.create(step.name, step.options), WholeStep):
            out.append(Segment(tuple(rows), step))
            rows = []
        else:
            rows.append(step)
    return (*out, Segment(tuple(rows), None))


@dataclass(frozen=True, slots=True)
class Task:
    """One part on its way through one segment."""

    work: Work
    config: DataConfig
    plan: tuple[Segment, ...]
    segment: int
    part: int


def advance(task: Task) -> Facts:
    """Take a part through the row steps of a segment and digest what is left for its decision."""
    k, part, work = task.segment, task.part, task.work
    here = task.plan[k]
    frame, counts, notes = apply(load(task), list(steps.build(here.steps)))
    if here.steps:
        work.put(f"rows-{k}", part, frame)
    living = frame.filter(alive())
    if here.whole is None:
        digest = split.digest(living, task.config)
    else:
        whole = steps.create(here.whole.name, here.whole.options)
        assert isinstance(whole, WholeStep)
        digest = whole.digest(living)
    assert digest.height == living.height, "a digest has one row for each row"
    work.put(f"digest-{k}", part, digest)
    return work.mark(
        f"rows-{k}", part, {"steps": [asdict(count) for count in counts], "notes": notes, "living": living.height}
    )


def load(task: Task, *, cleaned: bool = False) -> pl.DataFrame:
    """A part as it enters a segment, or leaves its row steps: as it was last written, plus the verdicts since."""
    work, part, k = task.work, task.part, task.segment
    base = next((j for j in range(k - (not cleaned), -1, -1) if work.has(f"rows-{j}", part)), None)
    frame = work.get("read" if base is None else f"rows-{base}", part)
    for j in range(base or 0, k):
        whole = task.plan[j].whole
        assert whole is not None
        if work.has(f"verdict-{j}", part):
            frame = _on_living(frame, partial(settle, step=whole.name, verdicts=work.get(f"verdict-{j}", part)))
    return frame


def _on_living(frame: pl.DataFrame, change: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """Change the living rows of a frame and put them back where they stood."""
    marked = frame.with_row_index("_at")
    living = change(marked.filter(alive()).drop("_at")).with_columns(marked.filter(alive())["_at"])
    return pl.concat([living, marked.filter(~alive())], how="diagonal").sort("_at").select(list(SCHEMA))


def apply(frame: pl.DataFrame, chain: Sequence[Step]) -> tuple[pl.DataFrame, list[StepCount], list[str]]:
    """Apply steps to the living rows of a frame, one after the other.

    Returns:
        All rows in their order, what each step did, and the steps' notes.

    Raises:
        RuntimeError: A step lost, added or reordered rows, or changed the columns (a bug of that step).
    """
    counts, notes = list[StepCount](), list[str]()

    def all_steps(living: pl.DataFrame) -> pl.DataFrame:
        dead = []
        order = living.select("id")
        for step in chain:
            clock = time.perf_counter()
            after = step.apply(living)
            if not after["id"].equals(living["id"]) or dict(after.schema) != dict(SCHEMA):
                raise RuntimeError(f"step {step.name!r} must return the same rows and columns it was given")
            gone = after.filter(~alive())
            changed = int((after["history"].list.len() > living["history"].list.len()).sum())
            counts.append(StepCount(step.name, living.height, gone.height, changed, time.perf_counter() - clock))
            notes.extend(f"{step.name}: {note}" for note in step.notes)
            dead.append(gone)
            living = after.filter(alive())
        return order.join(pl.concat([living, *dead]), on="id", how="left", maintain_order="left").select(list(SCHEMA))

    return (_on_living(frame, all_steps) if chain else frame), counts, notes


def finish(task: Task, labels: tuple[str, ...]) -> Facts:
    """Write what a part gives: its lines of the three record files, and of the ledger."""
    work, part = task.work, task.part
    frame = load(task, cleaned=True)
    verdict = work.get(f"verdict-{task.segment}", part)
    return emit(work, task.config, part, divide(frame, verdict), verdict["split"], labels)


def rows_of(task: Task, splits: Sequence[Split]) -> pl.DataFrame:
    """The rows of a part that are in these splits."""
    frame = load(task, cleaned=True)
    verdict = task.work.get(f"verdict-{task.segment}", task.part)
    return frame.filter(alive()).filter(verdict["split"].is_in(list(splits)))


def divide(frame: pl.DataFrame, verdict: pl.DataFrame) -> pl.DataFrame:
    """Drop the rows to which the split gave a reason instead of a place. ``verdict`` has a line for every living row."""

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        gone = verdict["reason"].is_not_null()
        return rows.with_columns(
            dropped_reason=verdict["reason"],
            partner=pl.coalesce(verdict["partner"], rows["partner"]),
            dropped_step=verdict["step"].zip_with(gone, pl.Series([None], dtype=pl.String)),
        )

    return _on_living(frame, change)


def _masked(kept: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """The kept columns without personal data, where a step of the chain masks it."""
    if kept["fields"].null_count() == kept.height:
        return kept
    for step in steps.build(config.steps):
        if isinstance(step, Redact):
            kept = kept.with_columns(fields=step.mask_fields(kept["fields"]))
    return kept


def emit(
    work: Work, config: DataConfig, part: int, frame: pl.DataFrame, splits: pl.Series, labels: tuple[str, ...]
) -> Facts:
    """Record lines and ledger lines of a frame; ``splits`` are those of its living rows, in order."""
    kept = _masked(frame.filter(alive()), config)
    splits = splits.drop_nulls()
    assert kept.height == splits.len(), "every kept row has a split"
    for name in SPLITS:
        lines = json_lines(kept.filter(splits == name), config.system, labels)
        write_atomic(work.path(f"out-{name}", part, ".jsonl"), lines)
    book = ledger.build(frame, splits)
    work.put("ledger", part, book)
    return work.mark("ledger", part, tally.of(book))
