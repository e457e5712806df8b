"""Counts and warnings of a data stage: everything the report and the other rooms say about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tuneloop.data.config import DataConfig
from tuneloop.data.intake import UNREADABLE, Intake
from tuneloop.data.phases import StepCount
from tuneloop.types import SPLITS, Split

Facts = dict[str, Any]

_GIANT_ROWS, _GIANT_SHARE = 20, 0.02
_NAMED = 8


def build(
    config: DataConfig,
    intake: Intake,
    counts: Sequence[StepCount],
    notes: Sequence[str],
    total: Mapping[str, Any],
    labels: tuple[str, ...],
    found: Mapping[str, list[dict[str, Any]]],
) -> Facts:
    """Plain JSON. Times are left out: the same rows give the same bytes.

    Args:
        total: The sum of the tallies of all parts.
        found: ``clusters`` of duplicates, and ``balance`` of the splits.
    """
    fates = {name: total["fates"].get(name, 0) for name in SPLITS}
    kept = sum(fates.values())
    dropped = Counter(total["dropped"])
    classes: dict[Split, dict[str, int]] = {name: dict(sorted(total["classes"][name].items())) for name in SPLITS}
    step_counts = [{k: v for k, v in asdict(count).items() if k != "seconds"} for count in counts]
    return {
        "counts": {
            "rows_in": intake.rows,
            "derived": total["derived"],
            "kept": kept,
            "dropped": total["rows"] - kept,
            **fates,
        },
        "dropped": dict(dropped.most_common()),
        "labels": list(labels),
        "detected": intake.detected,
        "files": intake.files,
        "steps": step_counts,
        "classes": classes,
        "leaks_removed": dropped["leak"],
        "scripts": dict(sorted(total["scripts"].items())),
        "personal_data": dict(sorted(total["personal"].items())),
        **found,
        "warnings": [
            *_file_warnings(intake),
            *_step_warnings(config, step_counts),
            *_cluster_warnings(found["clusters"], total["rows"]),
            *notes,
            *_split_warnings(classes, fates),
            *(f"{b['split']} split, {b['field']}: {b['reason']}" for b in found["balance"] if b["decision"] == "fail"),
        ],
    }


def _file_warnings(intake: Intake) -> list[str]:
    bad = [facts for facts in intake.files if facts["format"] == UNREADABLE]
    plain = [facts for facts in intake.files if facts["format"] == "rows"]
    out = [f"{facts['file']}: {facts['detected']}" for facts in plain[:3]]
    if not bad:
        return out
    return [
        *out,
        f"{len(bad):,} of {len(intake.files):,} files could not be used; {bad[0]['file']} is {bad[0]['detected']}",
    ]


def _step_warnings(config: DataConfig, counts: list[dict[str, Any]]) -> list[str]:
    return [
        f"{c['step']} dropped {c['dropped']:,} of {c['rows']:,} rows ({c['dropped'] / c['rows']:.0%}): "
        "read the samples in the report before you trust it"
        for c in counts
        if c["rows"] and c["dropped"] / c["rows"] > config.drop_warning_share and c["step"] != "sample"
    ]


def _cluster_warnings(clusters: list[dict[str, Any]], rows: int) -> list[str]:
    limit = max(_GIANT_ROWS, _GIANT_SHARE * rows)
    return [
        f"{c['rows']:,} rows say nearly the same as {c['id']}: a template, or a threshold that is too low"
        for c in clusters
        if c["rows"] > limit
    ]


def _split_warnings(classes: Mapping[Split, dict[str, int]], fates: Mapping[Split, int]) -> list[str]:
    out = [f"the {name} split is empty" for name in SPLITS[1:] if not fates[name]]
    total = Counter({k: sum(classes[s].get(k, 0) for s in SPLITS) for s in SPLITS for k in classes[s]})
    if total and len(total) > sum(total.values()) / 2:
        return [*out, f"{len(total):,} classes for {sum(total.values()):,} rows: is the label column a class?"]
    if single := sorted(k for k, n in total.items() if n == 1):
        out.append(f"{_names(single)} has one row only and is never tested: add rows or merge the class")
    if untaught := sorted(k for k in total if not classes["train"].get(k)):
        out.append(f"{_names(untaught)} is tested but never trained: add rows to the training source")
    if untested := sorted(k for k, n in total.items() if n > 1 and not classes["test"].get(k)):
        out.append(f"{_names(untested)} has no row in the test split: too few rows to judge it")
    return out


def _names(classes: list[str]) -> str:
    shown = ", ".join(repr(c) for c in classes[:_NAMED])
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return ("class " if len(classes) == 1 else "each of the classes ") + shown + more
