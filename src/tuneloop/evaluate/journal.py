"""Lines on disk as results arrive, so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tuneloop.progress import log
from tuneloop.rundir import disk_error


class Journal:
    """A JSON-lines file that is appended to. A line that a crash cut short is removed when it is opened.

    Every line carries ``id`` and ``key``; a line counts only while its key is still the one that is expected, so an
    answer to another prompt is never taken for an answer to this one.

    Args:
        path: The file; it need not exist.
        keys: Item id -> the key its line must have.

    Attributes:
        rows: The lines that count, by id.
    """

    def __init__(self, path: Path, keys: Mapping[str, str]) -> None:
        self._path, self.rows = path, dict[str, dict[str, Any]]()
        try:
            self._file = path.open("a+b")
            self._cut_half_line()
            self._read(keys)
        except OSError as error:
            raise disk_error(error, path) from error

    def _cut_half_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def _read(self, keys: Mapping[str, str]) -> None:
        self._file.seek(0)
        unusable = 0
        for line in self._file:
            try:
                row = json.loads(line)
                usable = keys.get(row["id"]) == row["key"]
            except (ValueError, KeyError, TypeError):
                usable = False
            if usable:
                self.rows[row["id"]] = row
            else:
                unusable += 1
        if unusable:
            log(f"  {self._path}: {unusable} lines are damaged or belong to other questions and are done again")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line; it is with the operating system when this returns."""
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self._path) from error
        self.rows[row["id"]] = dict(row)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            os.fsync(self._file.fileno())
