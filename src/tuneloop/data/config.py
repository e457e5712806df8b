"""The ``data`` section of a project file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tuneloop.config import Config, ConfigPath
from tuneloop.data.documents import DocumentConfig
from tuneloop.data.registry import plugged_in
from tuneloop.types import Split

Format = Literal[
    "auto", "messages", "sharegpt", "alpaca", "pair", "classification", "annotation", "preference", "kto", "text"
]

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
    """Files, rows of a database, or a data set of a hub: one of ``path``, ``url`` and ``dataset``. A bare path is enough."""

    aliases: ClassVar[Mapping[str, str]] = {
        "file": "path",
        "folder": "path",
        "database_url": "url",
        "sql": "query",
        "subset": "name",
        "config_name": "name",
    }

    path: ConfigPath | None = None
    """A file, a folder of files, or a pattern such as ``exports/*.csv``; a SQLite file with table or query."""

    url: str | None = None
    """A database, e.g. ``postgresql://reader:${DB_PASSWORD}@host/shop``: the password is the name of a variable."""

    table: str | None = None
    """Table or view of a database (``schema.table`` for another schema), read in the order of its primary key."""

    query: str | None = None
    """SELECT statement for a database, instead of a table; give it an ORDER BY for the same rows in the same order."""

    dataset: str | None = None
    """A data set of a hub, ``owner/name``, or a folder that holds a copy of one."""

    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """The hub that has the data set."""

    name: str | None = None
    """Which of the data set's configurations; needed where there are several and none is called default."""

    revision: str | None = None
    """Branch, tag or commit of the data set; pin a commit for a reproducible run."""

    part: str = "train"
    """Which part of the data set, as its publisher calls it: train, validation, test, ..."""

    split: Split | None = None
    """Where every row of this source goes: train, validation or test; empty: rows are divided by the ratios."""

    rows: int | None = None
    """Take a stratified sample of this many clean rows; the others are kept in the ledger as not sampled."""

    @property
    def title(self) -> str:
        """What messages call it; never with a password."""
        if self.path is not None:
            return self.path.name
        return self.dataset or self.table or "the query"

    @field_validator("path", mode="before")
    @classmethod
    def _no_address(cls, value: Any) -> Any:
        if isinstance(value, str) and re.match(r"[A-Za-z][\w+.-]*://", value):
            raise ValueError(
                "a path is a file or a folder, and this is an address"
                "\nhint: a database is {url: ..., query: SELECT ...}; a hub's data set is {dataset: owner/name}; "
                "a web page is downloaded first"
            )
        return value

    @field_validator("rows")
    @classmethod
    def _positive(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError("must be at least 1\nhint: leave rows out to take all of them")
        return value

    @field_validator("url")
    @classmethod
    def _no_password(cls, value: str | None, info: ValidationInfo) -> str | None:
        from tuneloop.data.readers.database import anchored, password_in_clear

        if value is not None and password_in_clear(value):
            raise ValueError(
                "a password stands in the configuration\nhint: write ${DB_PASSWORD} in its place and export DB_PASSWORD=..."
            )
        folder = (info.context or {}).get("folder")
        return anchored(value, Path(folder)) if value and folder else value

    @model_validator(mode="after")
    def _one_kind(self) -> SourceConfig:
        given = [name for name in ("path", "url", "dataset") if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "none of path, url and dataset is given"
            raise ValueError(f"{said}; a source has exactly one of them\nhint: make it one entry of sources for each")
        if self.table and self.query:
            raise ValueError("table and query are given\nhint: keep one of them")
        if self.dataset and (self.table or self.query):
            raise ValueError("a data set has no table or query\nhint: choose with name, part and revision")
        if self.url and not (self.table or self.query):
            raise ValueError("a database needs table or query\nhint: table: orders, or query: SELECT ... ORDER BY ...")
        fields = type(self).model_fields
        misplaced = [n for n in ("name", "revision", "part", "hub") if getattr(self, n) != fields[n].default]
        if not self.dataset and misplaced:
            raise ValueError(f"{misplaced[0]} is for a data set of a hub\nhint: add dataset: owner/name, or remove it")
        return self


class StepConfig(Config):
    """One cleaning step. In YAML a bare name is enough, or ``near_duplicates: {threshold: 0.9}``."""

    name: str
    """Name of a built-in step or of one that an installed package registers under ``tuneloop.steps``."""

    options: Mapping[str, Any] = {}
    """What the step can be told, e.g. ``{threshold: 0.9}`` for near_duplicates; relative paths begin where the YAML file is."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        from tuneloop.data.steps import check

        return plugged_in(value, (info.context or {}).get("folder"), check)


class MakerConfig(Config):
    """One maker of new training rows. In YAML a bare name is enough, or ``typos: {rate: 0.1}``."""

    name: str
    """Name of a built-in maker or of one that an installed package registers under ``tuneloop.makers``."""

    options: Mapping[str, Any] = {}
    """What the maker can be told, e.g. ``{rate: 0.1}`` for typos; relative paths begin where the YAML file is."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        from tuneloop.data.makers import check

        return plugged_in(value, (info.context or {}).get("folder"), check)


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

    explained: ClassVar[Mapping[str, str]] = {
        "split": "the split is set here, without a section: train_ratio, validation_ratio, test_ratio, stratify_columns, "
        "group_column, near_leaks; a source that is a split: sources: [{path: test.csv, split: test}]",
        "test_size": "set test_ratio (a share of the rows)",
        "dedup": "name the steps: steps: [repair, empty, exact_duplicates, near_duplicates]",
    }

    incidental: ClassVar[tuple[str, ...]] = ("executor", "workers", "part_rows")

    sources: tuple[SourceConfig, ...]
    """The raw rows: a path, or a list of paths or of {path | url | dataset, table, query, split, rows}."""

    format: Format = "auto"
    """What a row is: auto, messages, sharegpt, alpaca, pair (prompt and response), classification, annotation (text,
    intent, entities, action), preference (a better and a worse answer), kto (answers judged good or bad) or text."""

    prompt_column: str | None = None
    """Column of what the user says; empty: found by its name."""

    response_column: str | None = None
    """Column of what the assistant should answer; empty: found by its name. Several, as in intent+entities+action:
    their JSON is the answer."""

    label_column: str | None = None
    """Column of the class; without a response column the class is the answer. Empty: found by its name."""

    keep_columns: tuple[str, ...] = ()
    """Columns that travel with each record as its fields, e.g. customer_id."""

    encoding: str | None = None
    """Text encoding of the files, e.g. gb18030; empty: byte-order mark, UTF-8, then detection."""

    delimiter: str | None = None
    """Column separator of CSV files; empty: found from the rows."""

    documents: DocumentConfig = DocumentConfig()
    """How web pages, PDF, Word, scans, recordings and DICOM become rows."""

    system: str | None = None
    """System prompt put in front of rows that have none; {labels} becomes the classes of the training split."""

    steps: tuple[StepConfig, ...] = tuple(StepConfig.model_construct(name=name, options={}) for name in DEFAULT_STEPS)
    """Cleaning steps in order: names, or {name, options}."""

    makers: tuple[MakerConfig, ...] = ()
    """What makes new rows from the training split: names, or {name, options}."""

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

    executor: Literal["inline", "processes", "ray"] = "inline"
    """Who applies the steps: this process, several processes, or Ray. The result is the same."""

    workers: int | None = None
    """How many processes; empty: one for each core."""

    part_rows: int = Field(default=20_000, ge=1)
    """How many rows are worked on at once; fewer need less memory. The result is the same."""

    drop_warning_share: float = 0.10
    """Warn when one step drops more than this share of the rows it saw."""

    @field_validator("sources", mode="before")
    @classmethod
    def _sources_from_paths(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | Path | Mapping | SourceConfig) else value
        return tuple(
            {"url" if "://" in str(item) else "path": item} if isinstance(item, str | Path) else item
            for item in items or ()
        )

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
