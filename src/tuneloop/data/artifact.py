"""What the data stage leaves on disk, and how the other stages read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tuneloop.errors import DataError
from tuneloop.rundir import RunDir, read_json
from tuneloop.types import Record, Split

SUMMARY, LEDGER, REPORT = "summary.json", "ledger.parquet", "report.html"


@dataclass(frozen=True, slots=True)
class DataArtifact:
    """A finished data stage.

    ``counts`` has rows_in, kept, dropped, train, validation, test; ``dropped`` counts by ``step: reason``;
    ``labels`` are the classes of the training split, sorted; ``detected`` says in words what the rows were.
    """

    folder: Path
    counts: Mapping[str, int]
    dropped: Mapping[str, int]
    labels: tuple[str, ...]
    detected: str


def load(out: RunDir) -> DataArtifact:
    """Read a finished data stage.

    Raises:
        DataError: The stage has not run there.
    """
    summary = read_json(out / SUMMARY)
    return DataArtifact(
        folder=out.path,
        counts=summary["counts"],
        dropped=summary["dropped"],
        labels=tuple(summary["labels"]),
        detected=summary["detected"],
    )


def read_records(folder: Path, split: Split) -> list[Record]:
    """The records of one split, in file order.

    Raises:
        DataError: The file is missing, or a line of it is broken.
    """
    path = Path(folder) / f"{split}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), hint="run the data stage: tuneloop data") from None
    out = []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                out.append(Record.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"not a record: {error}",
                    where=f"{path}:{number}",
                    hint="this file is written by the data stage; run it again",
                ) from None
    return out
