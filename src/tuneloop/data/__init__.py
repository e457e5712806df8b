"""Raw files -> records -> clean records -> train/validation/test, with every row accounted for.

    encoding, table, lines    bytes -> raw rows, each with its file and line
    formats                   raw rows -> one frame of conversations (the format is detected, not declared)
    steps/                    frame -> frame; a step never removes a row, it writes a reason
    split                     kept rows -> train, validation, test, without leaks
    ledger, report            what became of every row, for machines and for people

The ledger and the record files hold what the rows held: keep them as private as the raw files. Only ``report.html``
is masked.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from tuneloop.data import tokenizer
from tuneloop.data.artifact import DataArtifact, load, read_records
from tuneloop.data.config import DataConfig, SourceConfig, StepConfig
from tuneloop.data.tokenizer import TokenizerConfig
from tuneloop.data.tokenizer import run as train_tokenizer

if TYPE_CHECKING:
    from tuneloop.data import personal
    from tuneloop.data.ledger import Change, Explanation
    from tuneloop.data.makers import Ask
    from tuneloop.data.personal import Masker
    from tuneloop.data.sentence import offensive
    from tuneloop.rundir import RunDir

__all__ = [
    "Change",
    "DataArtifact",
    "DataConfig",
    "Explanation",
    "Masker",
    "SourceConfig",
    "StepConfig",
    "TokenizerConfig",
    "asks",
    "explain",
    "input_hashes",
    "load",
    "offensive",
    "personal",
    "read_records",
    "run",
    "tokenizer",
    "train_tokenizer",
]


def run(config: DataConfig, out: RunDir, *, ask: Ask | None = None, asked: str = "") -> DataArtifact:
    """Read, clean, redact, deduplicate, split and make more; write records, ledger, summary and report into ``out``.

    A killed run goes on where it was when it is started again with the same configuration and folder.

    Args:
        ask: Puts conversations ({role, content} each) to a model, for makers that need one; returns an answer for each.
        asked: What that model is called; an answer of another model is not taken from the cache.

    Raises:
        DataError: A source is missing, empty, not text or without a usable column; or no row is left to train on.
        ConfigError: A step got an option it does not have.
    """
    from tuneloop.data import pipeline

    return pipeline.run(config, out, ask, asked)


def input_hashes(config: DataConfig) -> dict[str, str]:
    """Name -> SHA-256 of everything that the stage reads: sources, and the files that its options name.

    Raises:
        DataError: A source is missing.
    """
    from tuneloop.data import makers, sources, steps
    from tuneloop.rundir import named_hashes

    named = {f"documents {key}": value for key, value in named_hashes(config.documents).items()}
    plugged = [*steps.build(config.steps), *(made for _, made in makers.build(config.makers, can_ask=True))]
    for number, one in enumerate(plugged):
        if isinstance(one, steps.StepBase | makers.MakerBase):
            named |= {f"{number} {one.name} {key}": value for key, value in one.inputs().items()}
    return sources.input_hashes(config) | named


def asks(config: DataConfig) -> bool:
    """Whether a maker of this configuration puts questions to the ``ask`` of ``run``."""
    from tuneloop.data import makers

    return any(makers.create(maker.name, maker.options).asks for maker in config.makers)


def explain(folder: Path, row_id: str) -> Explanation:
    """What happened to one row.

    Args:
        folder: The folder of a finished data stage.
        row_id: Its id, an unambiguous beginning of it, or its origin (``file:line``).

    Raises:
        DataError: There is no such row, or more than one.
    """
    from tuneloop.data import ledger

    return ledger.explain(folder, row_id)


def __getattr__(name: str) -> object:
    """The nouns of ``explain`` live beside polars, the masker has tables to build: they are imported when asked for."""
    if name in ("Masker", "personal"):
        personal = importlib.import_module("tuneloop.data.personal")
        return personal if name == "personal" else personal.Masker
    if name == "offensive":
        return importlib.import_module("tuneloop.data.sentence").offensive
    if name in ("Change", "Explanation"):
        from tuneloop.data import ledger

        return getattr(ledger, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
