"""The data stage: read -> steps -> leaks -> sample -> split -> records, ledger, summary, report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from tuneloop.data import ledger, personal, report, split, steps, summary
from tuneloop.data.artifact import REPORT, SUMMARY, DataArtifact, load
from tuneloop.data.config import DataConfig
from tuneloop.data.frame import SCHEMA, alive
from tuneloop.data.intake import Intake, take_in
from tuneloop.data.records import records
from tuneloop.data.summary import StepCount
from tuneloop.errors import DataError
from tuneloop.progress import Progress, log
from tuneloop.rundir import RunDir
from tuneloop.types import SPLITS, Record


@dataclass(frozen=True, slots=True)
class Cleaned:
    """All rows in input order, alive and dropped, with the counts and warnings of each step."""

    frame: pl.DataFrame
    counts: tuple[StepCount, ...]
    warnings: tuple[str, ...]


def run(config: DataConfig, out: RunDir) -> DataArtifact:
    """See ``tuneloop.data.run``."""
    chain = list(steps.build(config.steps))
    intake = take_in(config)
    cleaned = clean(intake.frame, chain)
    frame, sampling = split.sample(split.drop_leaks(cleaned.frame), config)
    kept = frame.filter(alive())
    splits = split.assign(kept, config)
    book = ledger.build(frame, dict(zip(kept["id"], splits, strict=True)))
    ledger.check(book, intake.frame.height)
    ledger.write(book, out)
    _refuse_nothing(book, out)
    assert split.shared_prompts(kept, splits) == 0, "a prompt stands in two splits"
    labels = tuple(sorted(kept.filter(splits == "train")["label"].drop_nulls().unique()))
    for name in SPLITS:
        rows = kept.filter(splits == name)
        out.write_text(f"{name}.jsonl", _json_lines(records(rows, config.system, labels)))
    facts = summary.build(config, intake, cleaned, book, labels, sampling)
    out.write_json(SUMMARY, facts)
    for count in cleaned.counts:
        out.log_metrics(step=count.step, rows=count.rows, seconds=round(count.seconds, 4))
    regions = dict.fromkeys([*personal.REGIONS, *(r for step in chain for r in getattr(step, "regions", ()))])
    out.write_text(REPORT, report.render(facts, book, tuple(regions)))
    _tell(facts, out)
    return load(out)


def clean(frame: pl.DataFrame, chain: Sequence[steps.Step]) -> Cleaned:
    """Apply the steps to the living rows, one after the other.

    Raises:
        RuntimeError: A step lost, added or reordered rows, or changed the columns (a bug of that step).
    """
    order = frame.select("id")
    dead = [frame.filter(~alive())]
    living = frame.filter(alive())
    counts, warnings = [StepCount("read", frame.height, dead[0].height, 0, 0.0)], list[str]()
    with Progress("cleaning", len(chain), "steps") as progress:
        for step in chain:
            progress.update(0, step.name)
            clock = time.perf_counter()
            after = step.apply(living)
            if not after["id"].equals(living["id"]) or dict(after.schema) != dict(SCHEMA):
                raise RuntimeError(f"step {step.name!r} must return the same rows and columns it was given")
            gone = after.filter(~alive())
            changed = int((after["history"].list.len() > living["history"].list.len()).sum())
            counts.append(StepCount(step.name, living.height, gone.height, changed, time.perf_counter() - clock))
            warnings += [f"{step.name}: {note}" for note in step.notes]
            dead.append(gone)
            living = after.filter(alive())
            progress.update(1)
    everything = order.join(pl.concat([living, *dead]), on="id", how="left", maintain_order="left")
    return Cleaned(everything.select(list(SCHEMA)), tuple(counts), tuple(warnings))


def _json_lines(rows: Iterable[Record]) -> str:
    return "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows)


def _refuse_nothing(book: pl.DataFrame, out: RunDir) -> None:
    if not book.filter(pl.col("fate") == "train").height:
        worst = summary.by_category(book).most_common(1)
        why = f"; most common reason: {worst[0][0]} ({worst[0][1]:,} rows)" if worst else ""
        raise DataError(
            f"no row of {book.height:,} is left to train on{why}",
            where=str(out / "ledger.parquet"),
            hint="the ledger names step and reason of every row; change data.steps or the source",
        )


def _tell(facts: summary.Facts, out: RunDir) -> None:
    n = facts["counts"]
    log(
        f"{n['rows_in']:,} rows in, {n['kept']:,} kept ({', '.join(f'{n[s]:,} {s}' for s in SPLITS)}), {n['dropped']:,} dropped"
    )
    if facts["dropped"]:
        log("  " + ", ".join(f"{k} {v:,}" for k, v in facts["dropped"].items()))
    for warning in facts["warnings"]:
        log(f"warning: {warning}")
    log(f"report: {out / REPORT}")


__all__ = ["Cleaned", "Intake", "clean", "records", "run"]
