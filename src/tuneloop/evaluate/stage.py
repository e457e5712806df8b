"""The stage: held-out records -> answers -> scores -> metrics with intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneloop.chat import Chat, refusal
from tuneloop.data import read_records
from tuneloop.engines import Engine
from tuneloop.errors import DataError
from tuneloop.evaluate import measuring, registry
from tuneloop.evaluate.answers import UNKNOWN, labels_of
from tuneloop.evaluate.artifact import RESULT, SCORES, Evaluation, Subject
from tuneloop.evaluate.asking import Row, ask, budget, requests_for, sample
from tuneloop.evaluate.config import EvaluateConfig
from tuneloop.evaluate.registry import Task
from tuneloop.progress import log
from tuneloop.rundir import RunDir
from tuneloop.stats import minimum_detectable_effect, wilson
from tuneloop.types import SPLITS, Context, Interval, Record

CHANGED = 0.2
"""Share of answers that is assumed to change between two models when the smallest detectable difference is announced."""


def run(
    config: EvaluateConfig, subject: Subject, records_folder: Path, engine: Engine, chat: Chat, out: RunDir
) -> Evaluation:
    """Ask a model the questions of a split and judge its answers.

    Args:
        config: What to measure.
        subject: The model, for the record.
        records_folder: The folder of the data stage.
        engine: Holds that model; it is driven and stays open.
        chat: The template object of that model.
        out: Where answers, scores and the result go; answers that are already there are not asked again.

    Raises:
        ConfigError: An unknown metric.
        DataError: The split is empty, or holds no row that a language model can be judged by.
        ServeError: No question could be answered.
    """
    registry.check(config.metrics)
    splits = {name: read_records(records_folder, name) for name in SPLITS}
    whole, left_out = _askable(splits[config.split])
    if not whole and left_out:
        raise DataError(
            f"no row of the {config.split} split can be asked: {'; '.join(left_out)}",
            where=str(records_folder),
            hint="add rows with an answer that is right, in words",
        )
    if not whole:
        raise DataError(
            f"the {config.split} split is empty",
            where=str(records_folder),
            hint="give more rows, or another data.split",
        )
    records = sample(whole, config.limit, config.seed)
    labels, why = labels_of([r for split in splits.values() for r in split])
    task = Task(records, labels, why, config.resamples, config.seed)
    max_tokens = budget(config, chat, [*splits["validation"], *whole])
    _announce(config, subject.label, task, len(whole), max_tokens, engine)
    for reason, count in left_out.items():
        log(f"  {count:,} rows of the {config.split} split are not asked: {reason}")
    context = Context(model=subject.label, version=subject.bundle.version, precision=subject.bundle.precision)
    requests = requests_for(config, chat, records, max_tokens, context)
    rows = list(ask(config, engine, chat, records, requests, subject.label, out).values())
    metrics, skipped, per_item = _judge(config, task, rows)
    notes = _measure(config, subject, engine, chat, records, rows, out, metrics, skipped)
    _write_scores(out, task, rows, per_item)
    matrix = _confusion(task, rows)
    evaluation = Evaluation(
        subject=subject.to_json(),
        n=len(records),
        metrics={m: metrics[m] for m in sorted(metrics)},
        skipped=skipped,
        per_class=_per_class(matrix),
        confusion=matrix,
        facts=_facts(config, task, rows, len(whole), max_tokens, engine, requests.values())
        | {"left_out": left_out, "notes": notes},
    )
    out.write_json(RESULT, evaluation.to_json())
    for name, interval in evaluation.metrics.items():
        log(f"  {subject.label}: {name} {interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}] n={interval.n}")
    return evaluation


def _askable(records: Sequence[Record]) -> tuple[list[Record], dict[str, int]]:
    """The rows that have a right answer in words, and how many have none for which reason."""
    reasons = [refusal(record) for record in records]
    askable = [record for record, reason in zip(records, reasons, strict=True) if reason is None]
    return askable, dict(Counter(reason for reason in reasons if reason is not None))


def _announce(config: EvaluateConfig, label: str, task: Task, available: int, max_tokens: int, engine: Engine) -> None:
    n = len(task.records)
    which = "all" if n == available else f"of {available}, sampled by class with seed {config.seed}"
    log(f"  {label}: {n} questions ({config.split}, {which}), at most {max_tokens} new tokens, engine {engine.name}")
    if task.labels is not None:
        half = wilson(n // 2, n)
        effect = minimum_detectable_effect(n, CHANGED)
        log(
            f"  with n = {n} an accuracy is known to ±{100 * (half.high - half.low) / 2:.1f} points at worst (95 %), and two "
            f"models are told apart from {100 * effect:.1f} points (power 80 %, {CHANGED:.0%} of the answers changed)"
        )


def _judge(
    config: EvaluateConfig, task: Task, rows: Sequence[Row]
) -> tuple[dict[str, Interval], dict[str, str], dict[str, list[float]]]:
    """The metrics of the answers' text, what was left out and why, and the scores of single answers."""
    from tuneloop.evaluate.scorers import mean

    metrics: dict[str, Interval] = {}
    skipped: dict[str, str] = {}
    per_item: dict[str, list[float]] = {}
    answers = [row["text"] for row in rows]
    for name in config.metrics:
        if name in registry.MEASURED:
            continue
        metric = registry.find(name)
        if reason := metric.unfit(task):
            skipped[name] = reason
            continue
        if metric.score is not None:
            scorer = metric.score(task)
            per_item[name] = [float(scorer(r, a)) for r, a in zip(task.records, answers, strict=True)]
        metrics[name] = metric.total(task, answers) if metric.total else mean(per_item[name], task)
    return metrics, skipped, per_item


def _measure(config: EvaluateConfig, subject: Subject, engine: Engine, chat: Chat, records: Sequence[Record],
             rows: Sequence[Row], out: RunDir, metrics: dict[str, Interval], skipped: dict[str, str]) -> dict[str, str]:  # fmt: skip
    """Add latency, throughput and perplexity to the metrics; returns what is to be said about them."""
    notes: dict[str, str] = {}
    if "latency" in config.metrics:
        found = measuring.latency(rows)
        metrics |= found
        if not found:
            skipped["latency"] = "no question was asked alone (evaluate.latency_requests)"
    if "tokens_per_s" in config.metrics:
        speed, how = measuring.throughput(rows, config.resamples, config.seed)
        if speed is None:
            skipped["tokens_per_s"] = how
        else:
            metrics["tokens_per_s"], notes["tokens_per_s"] = speed, how
    if "perplexity" in config.metrics:
        value, note = measuring.perplexity(engine, chat, records, subject.label, out, config.resamples, config.seed)
        if value is None:
            skipped["perplexity"] = note
        else:
            metrics["perplexity"] = value
            notes |= {"perplexity": note} if note else {}
    return notes


def _write_scores(out: RunDir, task: Task, rows: Sequence[Row], per_item: Mapping[str, Sequence[float]]) -> None:
    lines = []
    for i, (record, row) in enumerate(zip(task.records, rows, strict=True)):
        line = {
            "id": record.id,
            "label": record.label,
            "prediction": task.labels.predict(row["text"]) if task.labels else None,
            "reference": record.answer,
            "answer": row["text"],
            "finish": row["finish"],
            "error": row["error"],
            "scores": {name: values[i] for name, values in per_item.items()},
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    out.write_text(SCORES, "\n".join(lines) + "\n")


def _confusion(task: Task, rows: Sequence[Row]) -> dict[str, Any]:
    from tuneloop.evaluate.scorers import confusion

    return confusion(task.labels, task.records, [r["text"] for r in rows]) if task.labels else {}


def _per_class(matrix: dict[str, Any]) -> dict[str, dict[str, Interval]]:
    from tuneloop.evaluate.scorers import per_class

    return per_class(matrix) if matrix else {}


def _facts(config: EvaluateConfig, task: Task, rows: Sequence[Row], available: int, max_tokens: int, engine: Engine,
           requests: Any) -> dict[str, Any]:  # fmt: skip
    n = len(rows)
    prompt_tokens = sorted(len(r.prompt_ids) for r in requests)
    return {
        "split": config.split,
        "available": available,
        "sample": "all" if n == available else f"{n} of {available}, by class, seed {config.seed}",
        "max_new_tokens": max_tokens,
        "temperature": config.temperature,
        "cut": sum(r["finish"] == "length" for r in rows),
        "failed": sum(r["error"] is not None for r in rows),
        "unparseable": sum(task.labels.predict(r["text"]) == UNKNOWN for r in rows) if task.labels else None,
        "prompt_tokens_p50": prompt_tokens[len(prompt_tokens) // 2],
        "answer_tokens": sum(len(r["token_ids"]) for r in rows),
        "engine": engine.name,
        "batch_invariant": engine.capabilities.batch_invariant,
        "concurrency": config.concurrency,
    }
