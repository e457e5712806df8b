"""Frames for the tests of steps: from texts, or from the real files of ../shared/data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tuneloop.data.config import DataConfig
from tuneloop.data.frame import alive, make_frame
from tuneloop.data.intake import read_whole
from tuneloop.data.steps import create

SHARED = Path(__file__).parents[5] / "shared" / "data"
GOOD_SETS = {
    "banking77": "intent_en/banking77_train.csv",
    "huatuo": "medical_zh/huatuo_1200.jsonl",
    "belle": "instruct/belle_zh_seed_tasks.json",
    "gsm8k": "gsm8k/train_3000.jsonl",
}
"""Data that people made with care: no step may throw much of it away by default."""


def real(path: str) -> pl.DataFrame:
    """The readable rows of a file of ../shared/data; the test is skipped where it is absent."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"../shared/data/{path} is not on this machine")
    return read_whole(DataConfig(sources=str(file))).filter(alive())


def pairs(answers: Sequence[str], prompt: str = "Tell me.") -> pl.DataFrame:
    """Rows of a prompt and an answer."""
    return make_frame(
        {
            "id": [f"r{k}" for k in range(len(answers))],
            "messages": [[turn("user", prompt), turn("assistant", answer)] for answer in answers],
        }
    )


def classes(texts: Sequence[str], labels: Sequence[str | None], **more: Sequence[Any]) -> pl.DataFrame:
    """Classification rows."""
    return make_frame(
        {
            "id": [f"r{k}" for k in range(len(texts))],
            "messages": [[turn("user", text)] for text in texts],
            "label": list(labels),
            **more,
        }
    )


def turn(role: str, content: str) -> dict[str, str | None]:
    return {"role": role, "content": content, "reasoning": None}


def reasons(name: str, frame: pl.DataFrame, **options: Any) -> list[str | None]:
    """Why each row is dropped by a step."""
    return create(name, options).apply(frame)["dropped_reason"].to_list()


def dropped(name: str, frame: pl.DataFrame, **options: Any) -> float:
    """The share of rows that a step drops."""
    gone = reasons(name, frame, **options)
    return sum(reason is not None for reason in gone) / len(gone)
