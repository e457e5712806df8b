"""The bytes of files: written whole or not at all, found by id only after the ledger knows whose they are."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tuneloop import store
from tuneloop.rundir import fsync_path
from tuneloop.serve.batches.config import BatchesConfig

COPY_BYTES = 1 << 20
ORPHAN_S = 3600.0
"""A file that nobody knows is removed when it is this old; a younger one may be about to be known."""


class Folder:
    """The folder of ``config``; made at first use."""

    def __init__(self, config: BatchesConfig) -> None:
        self.path = (config.folder or store.home() / "batches").resolve()

    def make(self) -> None:
        (self.path / "files").mkdir(parents=True, exist_ok=True)

    def name(self) -> str:
        """A name that no other folder has, also one at the same path of another machine; its first user gives it.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        place = self.path / "id"
        if not place.exists():
            self.make()
            mine = self.path / f".{uuid.uuid4().hex}.id"
            mine.write_text(uuid.uuid4().hex)
            with suppress(FileExistsError):
                os.link(mine, place)
            mine.unlink()
        return place.read_text()

    def file(self, file_id: str) -> Path:
        """Where the file with this id, one of ours, lies."""
        return self.path / "files" / file_id

    def save(self, file_id: str, read: Callable[[int], bytes]) -> int:
        """Take what ``read`` gives until it gives nothing; returns the number of bytes.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        self.make()
        size, part = 0, self.path / "files" / f".{file_id}.part"
        try:
            with part.open("xb") as out:
                while piece := read(COPY_BYTES):
                    size += out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            part.replace(self.file(file_id))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        fsync_path(self.path / "files")
        return size

    def remove(self, file_id: str) -> None:
        self.file(file_id).unlink(missing_ok=True)

    def sweep(self, known: set[str]) -> None:
        """Remove what was left by those who were killed while they wrote."""
        self.make()
        for path in (self.path / "files").iterdir():
            if path.name not in known and time.time() - path.stat().st_mtime > ORPHAN_S:
                path.unlink(missing_ok=True)
