"""The chain of the audit log: each line holds the hash of the line before it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneloop.errors import DataError, ResourceError

TORN = "torn"
"""The event of the line after a broken one."""
GENESIS = "0" * 64
"""``prev`` of the very first line."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What an unbroken chain says."""

    lines: int
    first_prev: str
    """What came before the first line; ``GENESIS`` when nothing did."""
    last_hash: str

    @property
    def complete(self) -> bool:
        """Whether it begins with the very first line."""
        return self.first_prev == GENESIS


def verify(paths: Sequence[Path]) -> Verified:
    """Check the chain through audit logs, oldest first.

    Raises:
        DataError: A line does not follow from the one before it, with file and line.
    """
    prev: str | None = None
    first, count, torn = GENESIS, 0, False
    for path in paths:
        for where, line in _lines(path):
            said = _parsed(line)
            if said is None:
                torn = True
            elif torn and said.get("event") != TORN:
                raise DataError(
                    "the line before this one is broken", where=where, hint="it was changed after it was written"
                )
            else:
                torn = False
                if prev is None:
                    first = said["prev"]
                elif said["prev"] != prev:
                    raise DataError(
                        "this line does not follow from the one before it",
                        where=where,
                        hint="a line was changed, moved or taken out; give rotated files oldest first",
                    )
            prev, count = digest(line), count + 1
    if torn:
        raise DataError(
            "the last line is broken", where=str(paths[-1]), hint="was the gateway killed? it says so when it starts"
        )
    return Verified(count, first, prev or GENESIS)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", line.removesuffix(b"\n")
    except OSError as error:
        raise unwritable(path, error) from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line of the log; None for anything else."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("prev"), str) else None


def last_line(fd: int) -> bytes | None:
    """The last line of a file, with its newline if it has one."""
    size, block, tail = os.fstat(fd).st_size, 65_536, b""
    if not size:
        return None
    while len(tail) < size and b"\n" not in tail[:-1]:
        step = min(block, size - len(tail))
        tail = os.pread(fd, step, size - len(tail) - step) + tail
    return tail[tail[:-1].rfind(b"\n") + 1 :]


def digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"the audit log cannot be used: {error.strerror or error}",
        where=str(path),
        hint="check the path (serve.audit.path), who may write there, and the space on its disk",
    )
