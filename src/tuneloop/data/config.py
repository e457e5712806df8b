"""The ``data`` section of a project file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tuneloop.config import Config, ConfigPath
from tuneloop.types import Split

Format = Literal["auto", "messages", "sharegpt", "alpaca", "pair", "classification", "text"]

DEFAULT_STEPS = (
    "repair",
    "html",
    "whitespace",
    "empty",
    "truncated",
    "redact",
    "exact_duplicates",
    "near_duplicates",
)


class SourceConfig(Config):
    """One file, folder or pattern with ``*``. In YAML a bare path is enough."""

    path: ConfigPath
    """A file (CSV, TSV, JSONL, JSON, text), a folder of such files, or a pattern such as ``exports/*.csv``."""

    split: Split | None = None
    """Where every row of this source goes: train, validation or test; empty: rows are divided by the ratios."""

    rows: int | None = None
    """Take a stratified sample of this many clean rows; the others are kept in the ledger as not sampled."""

    @field_validator("rows")
    @classmethod
    def _positive(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError("must be at least 1\nhint: leave rows out to take all of them")
        return value


class StepConfig(Config):
    """One cleaning step. In YAML a bare name is enough."""

    name: str
    """Name of a built-in step or of one that an installed package registers under ``tuneloop.steps``."""

    options: Mapping[str, Any] = {}
    """What the step can be told, e.g. ``{threshold: 0.9}`` for near_duplicates."""


class DataConfig(Config):
    """Where the rows are, what they mean, how they are cleaned and divided."""

    aliases: ClassVar[Mapping[str, str]] = {
        "path": "sources",
        "paths": "sources",
        "dataset": "sources",
        "source": "sources",
        "default_system": "system",
        "system_prompt": "system",
        "data_seed": "seed",
        "val_size": "validation_ratio",
        "split_dataset_ratio": "validation_ratio",
        "group_by": "group_column",
        "stratify": "stratify_columns",
        "stratify_by": "stratify_columns",
        "prompt": "prompt_column",
        "query": "prompt_column",
        "text_column": "prompt_column",
        "response": "response_column",
        "label": "label_column",
    }

    sources: tuple[SourceConfig, ...]
    """The raw files: a path, or a list of paths or of {path, split, rows}."""

    format: Format = "auto"
    """What a row is: auto, messages, sharegpt, alpaca, pair (prompt and response), classification or text."""

    prompt_column: str | None = None
    """Column of what the user says; empty: found by its name."""

    response_column: str | None = None
    """Column of what the assistant should answer; empty: found by its name."""

    label_column: str | None = None
    """Column of the class; without a response column the class is the answer. Empty: found by its name."""

    encoding: str | None = None
    """Text encoding of the files, e.g. gb18030; empty: byte-order mark, UTF-8, then detection."""

    delimiter: str | None = None
    """Column separator of CSV files; empty: found from the rows."""

    system: str | None = None
    """System prompt put in front of rows that have none; {labels} becomes the classes of the training split."""

    steps: tuple[StepConfig, ...] = tuple(StepConfig(name=name) for name in DEFAULT_STEPS)
    """Cleaning steps in order: names, or {name, options}."""

    train_ratio: float = 0.70
    """Share of the rows that train."""

    validation_ratio: float = 0.15
    """Share of the rows that choose between checkpoints."""

    test_ratio: float = 0.15
    """Share of the rows that judge the result."""

    stratify_columns: tuple[str, ...] = ("label",)
    """Fields whose values every split has in the same shares; ``label`` is the class, others are kept columns."""

    group_column: str | None = None
    """Rows with one value of this kept column (a customer, a document) never stand in two splits."""

    near_leaks: float | None = Field(default=0.8, ge=0.1, le=1.0)
    """Prompts at least this similar stay in one split, and free ones like a prescribed test row are dropped; null: off."""

    seed: int = 0
    """Decides which rows go where; the same seed and rows give the same splits."""

    drop_warning_share: float = 0.10
    """Warn when one step drops more than this share of the rows it saw."""

    @field_validator("sources", mode="before")
    @classmethod
    def _sources_from_paths(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | Path | Mapping | SourceConfig) else value
        return tuple({"path": item} if isinstance(item, str | Path) else item for item in items or ())

    @field_validator("sources")
    @classmethod
    def _some_source(cls, value: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        if not value:
            raise ValueError("no source is named\nhint: data: {path: my-rows.csv}")
        return value

    @field_validator("stratify_columns", mode="before")
    @classmethod
    def _columns_from_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()

    @field_validator("steps", mode="before")
    @classmethod
    def _steps_from_names(cls, value: Any) -> Any:
        return tuple({"name": item} if isinstance(item, str) else item for item in value or ())

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, value: tuple[StepConfig, ...]) -> tuple[StepConfig, ...]:
        from tuneloop.data.steps import check

        for step in value:
            check(step.name, step.options)
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError('must be one character\nhint: "," or ";" or "\\t"')
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        import codecs

        if value is not None:
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError(
                    f"unknown encoding {value!r}\nhint: utf-8, gb18030, big5, shift_jis, utf-16, cp1252"
                ) from None
        return value

    @model_validator(mode="after")
    def _ratios(self) -> DataConfig:
        ratios = (self.train_ratio, self.validation_ratio, self.test_ratio)
        if min(ratios) < 0 or self.train_ratio <= 0 or not math.isclose(sum(ratios), 1.0, abs_tol=1e-6):
            raise ValueError(
                f"train_ratio, validation_ratio and test_ratio are {ratios} and must add up to 1"
                "\nhint: for example 0.7, 0.15 and 0.15"
            )
        return self
