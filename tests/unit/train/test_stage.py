"""The stage, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import load_tokenizer
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


TEXT = Record("text", (Message("assistant", "The card was lost, and then it was found again."),))


@pytest.fixture
def untemplated(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny("llama", "chatml"), tmp_path / "base"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


def test_texts_are_learned_without_a_chat_template_and_none_is_made_up(
    untemplated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(objective="pretrain", max_steps=1, trackers=())
    done = run(config, untemplated, records(tmp_path / "data", TEXT), RunDir(tmp_path / "out"))
    assert (done.rows, load_tokenizer(done.bundle).chat_template) == (1, None)
    assert "the tokenizer has no chat template: texts need none" in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "objective"), [([TEXT, TALK], "pretrain"), ([TEXT], "sft")])
def test_nobody_guesses_how_conversations_are_written(
    untemplated: Path, tmp_path: Path, rows: list[Record], objective: Any
) -> None:
    with pytest.raises(ModelError, match="nobody knows how this model wants its messages written"):
        run(TrainConfig(objective=objective), untemplated, records(tmp_path / "data", *rows), RunDir(tmp_path / "out"))
