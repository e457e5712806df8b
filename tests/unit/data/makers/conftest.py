"""Rows for makers, and what is around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tuneloop.data.config import MakerConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.makers import Around, Ask, run
from tuneloop.types import record_id

Make = Callable[..., pl.DataFrame]


def rows(texts: Sequence[str], labels: Sequence[str | None] | None = None, **columns: Sequence[Any]) -> pl.DataFrame:
    """Classification rows, one user turn each."""
    return make_frame(
        {
            "id": [record_id(text, str(k)) for k, text in enumerate(texts)],
            "messages": [[{"role": "user", "content": text}] for text in texts],
            "label": labels or ["x"] * len(texts),
            "source": [0] * len(texts),
            **columns,
        }
    )


def with_entities(entities: Any) -> str:
    return json.dumps({"entities": entities})


def said(frame: pl.DataFrame) -> list[str]:
    """The first turn of each row."""
    return [turns[0]["content"] for turns in frame["messages"].to_list()]


@pytest.fixture
def counts() -> dict[str, Any]:
    """What the maker reported."""
    return {}


@pytest.fixture
def make(tmp_path: Path, counts: dict[str, Any]) -> Make:
    """``make(name, options, *parts)`` -> the new rows of one maker."""

    def made(
        name: str,
        options: Mapping[str, Any],
        *parts: pl.DataFrame,
        ask: Ask | None = None,
        seed: int = 0,
        where: str = "c",
        held_out: Sequence[pl.DataFrame] = (),
    ) -> pl.DataFrame:
        labels = pl.concat(parts)["label"].drop_nulls().value_counts()
        around = Around(
            seed,
            dict(labels.iter_rows()),
            tmp_path / where,
            ask=ask,
            asked="test",
            report=lambda **k: counts.update(k),
            held_out=held_out,
        )
        found = list(run([MakerConfig(name=name, options=options)], list(parts), around))
        return pl.concat(found) if found else make_frame({"id": [], "messages": []})

    return made
