"""The stage, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tuneloop.errors import ConfigError
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig, run
from tuneloop.types import Message, Record

TALK = Record("talk", (Message("user", "hi"), Message("assistant", "yes")))


def records(folder: Path, *train: Record, validation: Sequence[Record] = ()) -> Path:
    """A folder as the data stage writes it."""
    folder.mkdir()
    for split, rows in (("train", train), ("validation", validation)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in rows))
    return folder


@pytest.mark.parametrize(
    "more",
    [
        {"validation": {"patience": 2}},
        {"validation": {"keep": "best"}},
        {"validation": {"patience": 2, "keep": "last"}},
        {"method": "staged", "stages": [{"method": "freeze", "patience": 1}, {"method": "full"}]},
    ],
    ids=str,
)
def test_early_stopping_without_a_validation_row_is_refused(
    tiny: Callable[..., Path], tmp_path: Path, more: dict[str, Any]
) -> None:
    config = TrainConfig(**more)
    with pytest.raises(ConfigError, match=r"no validation row.*\nhint: give data.validation_ratio > 0"):
        run(config, tiny("llama", "chatml"), records(tmp_path / "data", TALK), RunDir(tmp_path / "out"))
