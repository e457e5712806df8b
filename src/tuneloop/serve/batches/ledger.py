"""What files and batches exist, whose they are and how far they are. Times are seconds since 1970."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from tuneloop import store
from tuneloop.errors import ResourceError

OPEN = ("validating", "in_progress", "finalizing", "cancelling")
"""Statuses of batches that have not ended."""


class FileRow(store.Base):
    """A file; its bytes lie in the folder under its id."""

    __tablename__ = "batch_files"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    owner: Mapped[str] = mapped_column(index=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    created_s: Mapped[int]


class FolderRow(store.Base):
    """In which folder (``Folder.name``) a file lies: gateways may share the database and not the folder. Older files have no
    row."""

    __tablename__ = "batch_folders"

    file: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str]


class BatchRow(store.Base):
    """A batch. The files that it writes have their ids from the start and exist when it has ended."""

    __tablename__ = "batches"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    owner: Mapped[str] = mapped_column(index=True)
    model: Mapped[str] = mapped_column(index=True)
    endpoint: Mapped[str]
    input_file: Mapped[str]
    output_file: Mapped[str]
    error_file: Mapped[str]
    window: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    created_s: Mapped[int]
    expires_s: Mapped[int]
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    times: Mapped[str] = mapped_column(default="{}")
    """JSON: status -> when it began."""
    errors: Mapped[str] = mapped_column(default="[]")
    """JSON: code, message, param, line."""
    labels: Mapped[str] = mapped_column(default="{}")
    """JSON: the caller's metadata."""


def well_formed(text: str | None) -> bool:
    """Whether it could be one of our words or ids; what could not never reaches the database."""
    return text is None or re.fullmatch(r"[\w-]{1,64}", text, re.ASCII) is not None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a batch cannot run, or does not right now. ``line`` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Ledger:
    """Reads and writes the rows; every method is one transaction and blocks.

    Every method raises ``ResourceError`` when the database does not answer.

    Args:
        engine: The database; default ``store.connect()``, at first use.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine, self._connecting = engine, threading.Lock()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._connecting:
            self._engine = self._engine or store.connect()
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise ResourceError(
                f"the database does not answer: {error}".splitlines()[0],
                hint="another process may hold it; try again, or set TUNELOOP_DATABASE_URL",
            ) from error

    def add_file(self, row: FileRow, folder: str) -> FileRow:
        with self._session() as session:
            session.add_all((row, FolderRow(file=row.id, folder=folder)))
        return row

    def folder(self, file_id: str) -> str | None:
        """Where a file was put; None when nobody knows."""
        with self._session() as session:
            return session.scalar(select(FolderRow.folder).where(FolderRow.file == file_id))

    def file(self, owner: str, file_id: str) -> FileRow | None:
        if not well_formed(file_id):
            return None
        with self._session() as session:
            return session.scalar(select(FileRow).where(FileRow.id == file_id, FileRow.owner == owner))

    def stored_bytes(self, owner: str) -> int:
        with self._session() as session:
            return session.scalar(select(func.sum(FileRow.bytes)).where(FileRow.owner == owner)) or 0

    def files(self, owner: str, purpose: str | None, after: str | None, limit: int, order: str) -> list[FileRow]:
        """A page, and one more row where there is another page."""
        if not well_formed(purpose):
            return []
        with self._session() as session:
            query = select(FileRow).where(FileRow.owner == owner)
            if purpose is not None:
                query = query.where(FileRow.purpose == purpose)
            newest = order != "asc"
            if after is not None:
                at = select(FileRow.number).where(FileRow.id == after, FileRow.owner == owner).scalar_subquery()
                query = query.where(FileRow.number < at if newest else FileRow.number > at)
            query = query.order_by(FileRow.number.desc() if newest else FileRow.number.asc())
            return list(session.scalars(query.limit(limit + 1)))

    def remove_file(self, owner: str, file_id: str) -> bool:
        """False while an open batch reads it."""
        with self._session() as session:
            reads = select(BatchRow.id).where(BatchRow.input_file == file_id, BatchRow.status.in_(OPEN))
            if session.scalar(reads) is not None:
                return False
            row = session.scalar(select(FileRow).where(FileRow.id == file_id, FileRow.owner == owner))
            if row is not None:
                session.delete(row)
                session.execute(delete(FolderRow).where(FolderRow.file == file_id))
            return True

    def known_files(self) -> set[str]:
        """Ids of files that exist, or that an open batch writes."""
        with self._session() as session:
            found = set(session.scalars(select(FileRow.id)))
            for row in session.scalars(select(BatchRow).where(BatchRow.status.in_(OPEN))):
                found |= {row.output_file, row.error_file}
            return found

    def add_batch(self, row: BatchRow, max_open: int) -> bool:
        """False when its owner has ``max_open`` already."""
        with self._session() as session:
            query = select(func.count()).where(BatchRow.owner == row.owner, BatchRow.status.in_(OPEN))
            if (session.scalar(query) or 0) >= max_open:
                return False
            session.add(row)
        return True

    def batch(self, batch_id: str, owner: str | None = None) -> BatchRow | None:
        if not well_formed(batch_id):
            return None
        with self._session() as session:
            query = select(BatchRow).where(BatchRow.id == batch_id)
            return session.scalar(query if owner is None else query.where(BatchRow.owner == owner))

    def batches(self, owner: str, after: str | None, limit: int) -> list[BatchRow]:
        """A page, newest first, and one more row where there is another page."""
        with self._session() as session:
            query = select(BatchRow).where(BatchRow.owner == owner)
            if after is not None:
                at = select(BatchRow.number).where(BatchRow.id == after, BatchRow.owner == owner).scalar_subquery()
                query = query.where(BatchRow.number < at)
            return list(session.scalars(query.order_by(BatchRow.number.desc()).limit(limit + 1)))

    def open_batches(self, model: str) -> list[BatchRow]:
        """Those of a model that have not ended, oldest first."""
        with self._session() as session:
            query = select(BatchRow).where(BatchRow.model == model, BatchRow.status.in_(OPEN))
            return list(session.scalars(query.order_by(BatchRow.number)))

    def move(self, batch_id: str, before: Sequence[str], status: str, **values: Any) -> bool:
        """From one status to the next; False when it is in none of ``before`` any more."""
        with self._session() as session:
            row = session.scalar(select(BatchRow).where(BatchRow.id == batch_id).with_for_update())
            if row is None or row.status not in before:
                return False
            times = json.dumps(json.loads(row.times) | {status: int(time.time())})
            query = update(BatchRow).where(BatchRow.id == batch_id, BatchRow.status == row.status)
            done = session.execute(query.values(status=status, times=times, **values))
            return bool(done.rowcount)  # type: ignore[attr-defined]

    def count(self, batch_id: str, completed: int, failed: int) -> None:
        with self._session() as session:
            session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(completed=completed, failed=failed))

    def end(self, row: BatchRow, status: str, files: Sequence[FileRow], **values: Any) -> None:
        """The last status, and the files it leaves, in one transaction. Can be done twice."""
        with self._session() as session:
            for file in files:
                if session.scalar(select(FileRow.id).where(FileRow.id == file.id)) is None:
                    session.add(file)
            times = json.loads(row.times) | {status: int(time.time())}
            session.execute(
                update(BatchRow)
                .where(BatchRow.id == row.id, BatchRow.status.in_(OPEN))
                .values(status=status, times=json.dumps(times), **values)
            )


def new_id(kind: str) -> str:
    """``file-…`` or ``batch_…``: nobody guesses 128 random bits."""
    return f"{kind}{secrets.token_hex(16)}"


def as_json(problems: Sequence[Problem]) -> str:
    """For ``BatchRow.errors``. JSON can hold half a surrogate pair, an HTTP answer cannot: it becomes a question mark."""
    text = json.dumps([asdict(p) for p in problems], ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
