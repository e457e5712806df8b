"""What the report and the summary say, counted part by part and added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tuneloop.data.frame import REJECTED, spoken
from tuneloop.types import SPLITS

DROPPED = "dropped"
SAMPLES = 5
"""Rows shown for every reason and every step."""


def category(column: str = "reason") -> pl.Expr:
    """The part of a reason before the colon: what drops are counted by."""
    return pl.col(column).str.split(": ").list.first()


def of(book: pl.DataFrame) -> dict[str, Any]:
    """Counts and samples of one part of the ledger, as plain JSON."""
    gone = book.filter(pl.col("fate") == DROPPED).with_columns(category=category())
    kept = book.filter(pl.col("fate") != DROPPED)
    types = book["redactions"].explode().drop_nulls().struct.field("type").drop_nulls()
    return {
        "rows": book.height,
        "derived": int((book["parents"].list.len() > 0).sum()),
        "fates": _counts(book["fate"]),
        "dropped": _counts(gone["category"]),
        "dropped_by": _counts(gone["step"]),
        "classes": {name: _counts(kept.filter(pl.col("fate") == name)["label"].drop_nulls()) for name in SPLITS},
        "personal": _counts(types),
        "personal_rows": int((book["redactions"].list.len() > 0).sum()),
        "lengths": _lengths(kept),
        "scripts": _counts(script(spoken(kept, prompt_only=False))),
        "changed_messages": _counts(_changes(book)["step"]),
        "drop_samples": _samples(gone.select("category", "origin", "raw", "reason", "partner"), "category"),
        "change_samples": _samples(_changes(book), "step"),
    }


def add(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several tallies; the samples are the first ones in order."""
    out: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            out[key] = _sum(out[key], value, SAMPLES if key.endswith("samples") else None) if key in out else value
    return out


def _sum(a: Any, b: Any, limit: int | None) -> Any:
    if isinstance(a, dict):
        return {k: _sum(a[k], b[k], limit) if k in a and k in b else a.get(k, b.get(k)) for k in {**a, **b}}
    return (a + b)[:limit] if isinstance(a, list) else a + b


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(sorted(Counter(values.to_list()).items()))


def _changes(book: pl.DataFrame) -> pl.DataFrame:
    """One row a changed message. Redaction is left out: masked, before and after are the same."""
    return (
        book.filter(pl.col("history").list.len() > 0)
        .select("origin", "history")
        .explode("history")
        .unnest("history")
        .filter(pl.col("step") != "redact")
    )


def _samples(rows: pl.DataFrame, key: str) -> dict[str, list[dict[str, Any]]]:
    return {
        name: found.head(SAMPLES).drop(key).to_dicts() for (name,), found in rows.group_by(key, maintain_order=True)
    }


_SCRIPTS = {
    "Latin (English and others)": r"\p{Latin}",
    "Han (Chinese)": r"\p{Han}",
    "Kana (Japanese)": r"[\p{Hiragana}\p{Katakana}]",
    "Hangul (Korean)": r"\p{Hangul}",
    "Cyrillic": r"\p{Cyrillic}",
    "Arabic": r"\p{Arabic}",
}
_BEGINNING = 400


def script(texts: pl.Series) -> pl.Series:
    """The writing of each text: that of most of its first letters. Japanese is known by its kana."""
    start = pl.col("text").str.slice(0, _BEGINNING)
    counted = texts.to_frame("text").select(
        start.str.count_matches(shape).alias(name) for name, shape in _SCRIPTS.items()
    )
    kana, han = pl.col("Kana (Japanese)"), pl.col("Han (Chinese)")
    japanese = kana * 10 > han
    counted = counted.with_columns(
        pl.when(japanese).then(kana + han).otherwise(0).cast(pl.UInt32).alias("Kana (Japanese)"),
        pl.when(japanese).then(0).otherwise(han).cast(pl.UInt32).alias("Han (Chinese)"),
    )
    best = pl.concat_list(pl.all()).list.arg_max()
    found = pl.max_horizontal(pl.all()) > 0
    return counted.select(
        pl.when(found)
        .then(best.replace_strict(dict(enumerate(_SCRIPTS)), return_dtype=pl.String))
        .otherwise(pl.lit("other"))
    ).to_series()


def _lengths(kept: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Characters of what is asked and what is answered: length -> rows."""
    flat = (
        kept.select("id", "messages")
        .explode("messages")
        .unnest("messages")
        .filter(~pl.col("role").is_in(["system", REJECTED]))
        .with_columns(part=pl.when(pl.col("role") == "assistant").then(pl.lit("answer")).otherwise(pl.lit("prompt")))
        .group_by("id", "part")
        .agg(characters=pl.col("content").str.len_chars().sum())
    )
    return {
        part: {str(k): n for k, n in sorted(Counter(flat.filter(pl.col("part") == part)["characters"]).items())}
        for part in ("prompt", "answer")
    }
