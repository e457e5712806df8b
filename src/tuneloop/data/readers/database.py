"""Rows of a database: a table or a query, by URL or by the path of a SQLite file, streamed and never written to.

SQLite and PostgreSQL are opened for reading only; elsewhere nothing is ever committed.

A password stands in the URL only as ``${NAME}``, the name of an environment variable; its value is put in when the
connection is made and is neither logged nor stored.
"""

from __future__ import annotations

import difflib
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.dialect import column_names
from tuneloop.data.readers.unpack import first_bytes
from tuneloop.data.readers.values import typed_row
from tuneloop.data.rows import RawFile, RawRow
from tuneloop.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

_FETCH_ROWS = 1_000
_REFERENCE = re.compile(r"\$\{(\w+)\}")
_SQLITE = b"SQLite format 3\x00"


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read a table or a query of a SQLite file.

    Raises:
        DataError: It is no SQLite file, names neither table nor query, or the database refuses.
    """
    if not first_bytes(path, len(_SQLITE)).startswith(_SQLITE):
        raise DataError("this is not a SQLite database", where=str(path), hint="for other databases name their url")
    return _read(_sqlite(path), name, options)


def read_url(url: str, name: str, options: ReadOptions) -> RawFile:
    """Read a table or a query of the database that an SQLAlchemy URL names.

    Raises:
        DataError: A variable of the URL is not set, the driver is missing, or the database refuses.
    """
    return _read(_engine(url, name), name, options)


def password_in_clear(url: str) -> bool:
    """Whether a URL holds a password itself, and not the name of a variable that holds it."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return False  # perhaps ${DATABASE_URL}; anything else is refused when it is used
    stated = [parsed.password, *(value for key, value in parsed.query.items() if "password" in key.lower())]
    return any(value and not _REFERENCE.fullmatch(str(value)) for value in stated)


def anchored(url: str, folder: Path) -> str:
    """A SQLite URL with a relative path (three slashes) meant from a folder."""
    path = url.removeprefix("sqlite:///")
    return url if path in (url, "") or path.startswith(("/", "$")) else f"sqlite:///{(folder / path).as_posix()}"


def place(url: str) -> tuple[str, str]:
    """Host and database of a URL, for names; what is not stated or stands in a variable is left out."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "", "database"
    host = "-".join(str(part) for part in (parsed.host, parsed.port) if part)
    return host, Path(parsed.database or parsed.get_backend_name()).name


def _engine(url: str, name: str) -> Engine:
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    from sqlalchemy.pool import NullPool

    hint = "for example postgresql://reader:${DB_PASSWORD}@host:5432/shop or sqlite:///shop.db"
    try:
        parsed = _filled(make_url(_from_environment(url) if _REFERENCE.fullmatch(url) else url))
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(Path(parsed.database or ""))
        return create_engine(parsed, poolclass=NullPool)
    except (NoSuchModuleError, ImportError) as error:
        extra = "pip install 'tuneloop[sql]'" if "psycopg" in str(error) else "install the driver that the URL names"
        raise DataError(f"no driver for this database: {error}", where=name, hint=extra) from None
    except (ArgumentError, ValueError):
        raise DataError("this is not a database URL", where=name, hint=hint) from None


def _filled(url: URL) -> URL:
    """The URL with its variables put in, part by part: a password may hold any character."""

    def value(text: str | None) -> str | None:
        return _from_environment(text) if text else text

    return url.set(
        username=value(url.username),
        password=value(url.password),
        host=value(url.host),
        database=value(url.database),
        query={key: _from_environment(text) if isinstance(text, str) else text for key, text in url.query.items()},
    )


def _from_environment(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        variable = found.group(1)
        if variable not in os.environ:
            raise DataError(
                f"the environment variable {variable} is not set",
                where="data.sources",
                hint=f"export {variable}=...  (the value is neither printed nor stored)",
            )
        return os.environ[variable]

    return _REFERENCE.sub(value, text)


def _sqlite(path: Path) -> Engine:
    """A SQLite file, opened for reading only: a missing one is not created."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    if not path.is_file():
        raise DataError("no such file", where=str(path), hint="paths are relative to the YAML file")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _read(engine: Engine, name: str, options: ReadOptions) -> RawFile:
    facts: dict[str, Any] = {"encoding": engine.dialect.name, "blank_lines": 0}
    columns: list[str] = []
    file = RawFile.start(name, _rows(engine, name, options, columns), None, facts)
    file.columns = tuple(columns)
    return file


def _rows(engine: Engine, name: str, options: ReadOptions, columns: list[str]) -> Iterator[RawRow]:
    with _refusals(engine, name), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(postgresql_readonly=True)
        statement = options.query or _select(connection, name, options.table)
        streaming: dict[str, Any] = {"stream_results": True, "yield_per": _FETCH_ROWS, "no_parameters": True}
        with connection.execution_options(**streaming).exec_driver_sql(statement) as result:
            if not result.returns_rows:
                raise DataError("the query returns no rows", where=name, hint="write a SELECT")
            columns += column_names(list(result.keys()))
            for number, values in enumerate(result, 1):
                yield typed_row(number, columns, values)


def _select(connection: Connection, name: str, table: str | None) -> str:
    """All rows of a table, in the order of its primary key where it has one: the same rows come in the same order."""
    from sqlalchemy import column, inspect, select, text
    from sqlalchemy import table as sql_table

    inspector = inspect(connection)
    known = [*inspector.get_table_names(), *inspector.get_view_names()]
    schema, _, bare = (table or "").rpartition(".")
    if table in known:
        schema, bare = "", table or ""
    elif schema and schema in inspector.get_schema_names():
        known = [f"{schema}.{t}" for t in (*inspector.get_table_names(schema), *inspector.get_view_names(schema))]
    if table is None or table not in known:
        raise _no_table(name, table, known)
    key = inspector.get_pk_constraint(bare, schema or None)["constrained_columns"]
    chosen = select(text("*")).select_from(sql_table(bare, schema=schema or None)).order_by(*map(column, key))
    return str(chosen.compile(connection))


def _no_table(name: str, table: str | None, known: list[str]) -> DataError:
    names = ", ".join(sorted(known)[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    tables = f"its tables: {names}" if known else "it has no table"
    if table is None:
        return DataError("a database needs table: or query:", where=name, hint=tables)
    near = difflib.get_close_matches(table, known, 1, 0.6)
    return DataError(f"no table {table!r}", where=name, hint=f"did you mean {near[0]!r}? {tables}" if near else tables)


@contextmanager
def _refusals(engine: Engine, name: str) -> Iterator[None]:
    """What the database says, in one line and without the password."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, UnicodeError) as error:
        said = str(error.orig if isinstance(error, DBAPIError) else error)
        if engine.url.password:
            said = said.replace(str(engine.url.password), "***")
        raise DataError(
            f"the database says: {' '.join(said.split())[:300]}", where=name, hint="check url, table and query"
        ) from None
