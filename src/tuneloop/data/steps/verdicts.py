"""What steps that judge all rows hand back."""

from __future__ import annotations

import polars as pl

from tuneloop.data.frame import VERDICTS

_NAMED = 5


def verdicts(found: pl.DataFrame) -> pl.DataFrame:
    """``VERDICTS`` from ``at`` and ``reason`` (other columns are left out), without rows that nothing is decided about."""
    known = [name for name in VERDICTS if name in found.columns]
    nothing = (pl.lit(None, dtype=kind).alias(name) for name, kind in VERDICTS.items() if name not in known)
    return found.select(known).with_columns(*nothing).select(list(VERDICTS)).drop_nulls("reason").sort("at")


def no_verdicts() -> pl.DataFrame:
    """Nothing is decided about any row."""
    return pl.DataFrame(schema=dict(VERDICTS))


def examples(found: pl.DataFrame, detail: str = "") -> str:
    """The ids of the first rows, for a note: ``r1, r2 and 7 more``; ``detail`` is a column to put behind each id."""
    rows = found.head(_NAMED)
    shown = rows["id"].to_list()
    if detail:
        shown = [f"{id_} ({said})" for id_, said in zip(shown, rows[detail], strict=True)]
    more = f" and {found.height - _NAMED:,} more" if found.height > _NAMED else ""
    return ", ".join(shown) + more
