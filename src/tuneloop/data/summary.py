"""Counts and warnings of a data stage: everything the report and the other rooms say about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from tuneloop.data.config import DataConfig
from tuneloop.data.intake import Intake
from tuneloop.data.ledger import DROPPED
from tuneloop.types import SPLITS, Split

if TYPE_CHECKING:
    from tuneloop.data.pipeline import Cleaned

Facts = dict[str, Any]

_GIANT_ROWS, _GIANT_SHARE = 20, 0.02
_NAMED = 8


@dataclass(frozen=True, slots=True)
class StepCount:
    """What one step did: rows it saw, dropped and changed, and how long it took."""

    step: str
    rows: int
    dropped: int
    changed: int
    seconds: float


def category(column: str = "reason") -> pl.Expr:
    """The part of a reason before the colon: what drops are counted by."""
    return pl.col(column).str.split(": ").list.first()


def by_category(book: pl.DataFrame) -> Counter[str]:
    return Counter(book.filter(pl.col("fate") == DROPPED).select(category()).to_series().to_list())


def build(
    config: DataConfig,
    intake: Intake,
    cleaned: Cleaned,
    book: pl.DataFrame,
    labels: tuple[str, ...],
    sampling: list[str],
) -> Facts:
    """Plain JSON. Times are left out: the same rows give the same bytes."""
    kept = book.filter(pl.col("fate") != DROPPED)
    per_split = {name: kept.filter(pl.col("fate") == name) for name in SPLITS}
    dropped = by_category(book)
    classes = {name: dict(sorted(Counter(rows["label"].drop_nulls()).items())) for name, rows in per_split.items()}
    clusters = _clusters(book)
    step_counts = [{k: v for k, v in asdict(c).items() if k != "seconds"} for c in _with_later(cleaned, book)]
    return {
        "counts": {
            "rows_in": book.height,
            "kept": kept.height,
            "dropped": book.height - kept.height,
            **{name: rows.height for name, rows in per_split.items()},
        },
        "dropped": dict(dropped.most_common()),
        "labels": list(labels),
        "detected": intake.detected,
        "files": [dict(f) for f in intake.files],
        "steps": step_counts,
        "classes": classes,
        "leaks_removed": dropped["leak"],
        "personal_data": _personal(book),
        "clusters": clusters,
        "warnings": [
            *_step_warnings(config, step_counts),
            *cleaned.warnings,
            *_cluster_warnings(clusters, book.height),
            *sampling,
            *_split_warnings(classes, per_split),
        ],
    }


def _with_later(cleaned: Cleaned, book: pl.DataFrame) -> list[StepCount]:
    """The steps, followed by what the split dropped."""
    rows = cleaned.counts[0].rows - sum(c.dropped for c in cleaned.counts)
    out = list(cleaned.counts)
    known = {c.step for c in out}
    for step in ("split", "sample"):
        gone = book.filter(pl.col("step") == step).height
        if step not in known and gone:
            out.append(StepCount(step, rows, gone, 0, 0.0))
            rows -= gone
    return out


def _personal(book: pl.DataFrame) -> dict[str, int]:
    """Type -> how many were found."""
    types = book["redactions"].explode().drop_nulls().struct.field("type")
    return dict(sorted(Counter(types.drop_nulls()).items()))


def _clusters(book: pl.DataFrame) -> list[dict[str, Any]]:
    """The largest groups of duplicates: the kept row, and how many rows say the same."""
    copies = book.filter(pl.col("partner").is_not_null())
    counted = copies.group_by("partner", maintain_order=True).agg(copies=pl.len())
    top = counted.sort("copies", descending=True, maintain_order=True).head(20)
    return [{"id": r["partner"], "rows": r["copies"] + 1} for r in top.iter_rows(named=True)]


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


def _split_warnings(classes: Mapping[Split, dict[str, int]], per_split: Mapping[Split, pl.DataFrame]) -> list[str]:
    out = [f"the {name} split is empty" for name in SPLITS[1:] if not per_split[name].height]
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
