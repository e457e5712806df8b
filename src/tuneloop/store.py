"""The database: SQLite by default, PostgreSQL by URL. Rooms declare their tables on ``Base`` and get sessions here."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from tuneloop.errors import ResourceError


class Base(DeclarativeBase):
    """Declarative base of every table."""


def home() -> Path:
    """``TUNELOOP_HOME``, or ``tuneloop`` under the user's cache folder: models and the default database."""
    if chosen := os.environ.get("TUNELOOP_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuneloop"


def is_offline() -> bool:
    """``TUNELOOP_OFFLINE`` or ``HF_HUB_OFFLINE`` is set (to anything but 0, false or no)."""
    said = (os.environ.get(name, "") for name in ("TUNELOOP_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() not in ("", "0", "false", "no") for value in said)


def connect(url: str | None = None) -> Engine:
    """Open the database and create missing tables.

    Args:
        url: An SQLAlchemy URL; default ``TUNELOOP_DATABASE_URL``, then ``sqlite:///<home>/tuneloop.db``.

    Raises:
        ResourceError: It cannot be opened.
    """
    url = url or os.environ.get("TUNELOOP_DATABASE_URL") or f"sqlite:///{home() / 'tuneloop.db'}"
    try:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _sqlite_pragmas)
        Base.metadata.create_all(engine)
    except (SQLAlchemyError, OSError, ImportError) as error:
        raise ResourceError(
            f"the database cannot be opened: {error}".splitlines()[0],
            where=url,
            hint="set TUNELOOP_DATABASE_URL, or TUNELOOP_HOME to a folder you can write",
        ) from None
    return engine


def _sqlite_pragmas(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
