"""Parts: the rows of a stage on disk, some 20,000 in a file, so that memory stays bounded and a killed run goes on.

tmp/read/000007.arrow     rows as they were read          tmp/digest-0/000007.arrow   what a decision needs to know
tmp/rows-0/000007.arrow   the same rows after some steps  tmp/verdict-0/000007.arrow  what was decided about them
tmp/rows-0/000007.json    counts; written last, so it says that the part is whole
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tuneloop.rundir import disk_error, disk_error_in, fsync_path, replacing, write_atomic

PART_BYTES = 32 << 20
"""A part is also closed at this many characters of raw text."""

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """The working folder of a stage. A file in it is whole or absent."""

    folder: Path

    def begin(self, key: str) -> None:
        """Keep what an interrupted run with the same key has done, remove anything else."""
        path = self.folder / "key.json"
        if self.folder.exists() and not (path.exists() and json.loads(path.read_text()) == key):
            shutil.rmtree(self.folder)
        write_atomic(path, json.dumps(key))

    def end(self) -> None:
        """Remove everything; killed in the middle of it, the rest is nobody's and not gone on with."""
        (self.folder / "key.json").unlink()
        fsync_path(self.folder)
        shutil.rmtree(self.folder)

    def path(self, phase: str, part: int, suffix: str = ".arrow") -> Path:
        return self.folder / phase / f"{part:06}{suffix}"

    def put(self, phase: str, part: int, frame: pl.DataFrame) -> None:
        path = self.path(phase, part)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                frame.write_ipc(temporary, compression="uncompressed")
        except (OSError, pl.exceptions.PolarsError) as error:
            known = disk_error(error, path) if isinstance(error, OSError) else disk_error_in(error, path)
            if known is None:
                raise
            raise known from error

    def has(self, phase: str, part: int) -> bool:
        return self.path(phase, part).exists()

    def get(self, phase: str, part: int) -> pl.DataFrame:
        return pl.read_ipc(self.path(phase, part))

    def mark(self, phase: str, part: int, facts: Facts) -> Facts:
        write_atomic(self.path(phase, part, ".json"), json.dumps(facts, ensure_ascii=False))
        return facts

    def marked(self, phase: str, part: int) -> Facts | None:
        """The counts of a finished part; None while it is not finished."""
        path = self.path(phase, part, ".json")
        if not path.exists():
            return None
        facts: Facts = json.loads(path.read_text(encoding="utf-8"))
        return facts

    def scan(self, phase: str, parts: Sequence[int]) -> pl.LazyFrame:
        """All rows of a phase one below the other, with ``at`` (Int64, from 0) in front."""
        files = [self.path(phase, part) for part in parts]
        return pl.scan_ipc(files, row_index_name="at").with_columns(pl.col("at").cast(pl.Int64))

    def forget(self, phase: str) -> None:
        """Free the disk that the rows of a phase took; its counts stay."""
        for file in (self.folder / phase).glob("*.arrow"):
            file.unlink()


def cut(verdicts: pl.DataFrame, heights: Sequence[int]) -> list[pl.DataFrame]:
    """Verdicts about all rows -> verdicts about each part's rows, ``at`` counted from the part's first row.

    Args:
        verdicts: Sorted by ``at``.
        heights: How many rows each part put into the digests.
    """
    ends = [sum(heights[: k + 1]) for k in range(len(heights))]
    borders = [0, *(int(verdicts["at"].search_sorted(end, side="left")) for end in ends)]
    return [
        verdicts[a:b].with_columns(pl.col("at") - (end - height))
        for a, b, end, height in zip(borders, borders[1:], ends, heights, strict=False)
    ]
