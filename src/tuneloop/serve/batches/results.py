"""The answers of a batch: appended to two files and on the disk before they count, so that none is made twice."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneloop.rundir import fsync_path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a line: an HTTP status and body, or a reason why it was not asked."""

    custom_id: str
    status: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    request_id: str = ""
    reason: tuple[str, str] | None = None
    """Code and message."""

    @property
    def ok(self) -> bool:
        return self.status == 200

    def to_json(self) -> dict[str, Any]:
        """In OpenAI's form."""
        said = {"status_code": self.status, "request_id": self.request_id, "body": self.body}
        error = {"code": self.reason[0], "message": self.reason[1]} if self.reason else None
        return {
            "id": f"batch_req_{secrets.token_hex(12)}",
            "custom_id": self.custom_id,
            "response": None if self.reason else said,
            "error": error,
        }


class Results:
    """The output and the error file of one batch while it runs. One thread at a time.

    Args:
        output: Lines that were answered.
        errors: Lines that were not.
    """

    def __init__(self, output: Path, errors: Path) -> None:
        self._paths = {True: output, False: errors}
        self.done: set[str] = set()
        """custom_ids that are on the disk."""
        self.completed = self.failed = 0

    def resume(self) -> None:
        """Take up what an earlier process has written; what it was writing when it ended is dropped.

        Raises:
            OSError: The files cannot be read or cut.
        """
        self.done, counts = set(), {}
        for ok, path in self._paths.items():
            found = _whole_lines(path) if path.exists() else []
            self.done.update(found)
            counts[ok] = len(found)
        self.completed, self.failed = counts[True], counts[False]

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Put outcomes on the disk; returns when they would survive a power cut.

        Raises:
            OSError: The disk is full. What is not in ``done`` then is not in the files either.
        """
        for ok, path in self._paths.items():
            mine = [o for o in outcomes if o.ok is ok]
            if not mine:
                continue
            _append(path, b"".join(_line(o.to_json()) for o in mine))
            self.done.update(o.custom_id for o in mine)
            self.completed += len(mine) if ok else 0
            self.failed += 0 if ok else len(mine)


def _line(values: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(values, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        return (json.dumps(values) + "\n").encode()


def _append(path: Path, data: bytes) -> None:
    fresh = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except BaseException:
            os.ftruncate(file.fileno(), before)  # half a line must not stand in front of the next one
            raise
    if fresh:
        fsync_path(path.parent)


def _whole_lines(path: Path) -> list[str]:
    """custom_ids of the lines that were written whole; cuts the file behind them."""
    found: list[str] = []
    good = 0
    with path.open("rb") as file:
        for text in file:
            try:
                if not text.endswith(b"\n"):
                    break
                found.append(str(json.loads(text)["custom_id"]))
            except (ValueError, KeyError, TypeError):
                break
            good += len(text)
    if good < path.stat().st_size:
        os.truncate(path, good)
        fsync_path(path)
    return found
