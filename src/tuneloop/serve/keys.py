"""API keys: 256 random bits, shown once, kept as SHA-256, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from tuneloop import store
from tuneloop.errors import ConfigError, ResourceError

Scope = Literal["chat", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "tl-"


class KeyRow(store.Base):
    """A key in the database. Times are seconds since 1970."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[str]
    created_s: Mapped[int]
    expires_s: Mapped[int | None]
    revoked_s: Mapped[int | None]


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about a key; never the key itself."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_s: int
    expires_s: int | None = None
    revoked_s: int | None = None
    digest: bytes = b""

    def may(self, scope: Scope) -> bool:
        """Whether it opens a scope; ``admin`` opens all."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def active(self) -> bool:
        return self.revoked_s is None and (self.expires_s is None or time.time() < self.expires_s)


ANYBODY = Key("anonymous", "anonymous", SCOPES, 0)
"""Who asks where keys are switched off."""


def create(
    name: str,
    *,
    scopes: Sequence[str] = ("chat",),
    expires_days: float | None = None,
    engine: Engine | None = None,
) -> tuple[Key, str]:
    """Make a key.

    Args:
        name: Who or what it is for.
        scopes: Of ``chat``, ``metrics``, ``admin`` (which includes the others).
        expires_days: When it ends; None means never.
        engine: The database; default ``store.connect()``.

    Returns:
        What is kept, and the key itself, which cannot be had again.

    Raises:
        ConfigError: An unknown scope, an expiry in the past.
        ResourceError: The database cannot be written.
    """
    if unknown := [s for s in scopes if s not in SCOPES]:
        raise ConfigError(f"there is no scope {unknown[0]!r}", hint=f"scopes: {', '.join(SCOPES)}")
    if not scopes or (expires_days is not None and expires_days <= 0):
        raise ConfigError("a key needs a scope and an expiry in the future", hint="--scope chat --expires-days 90")
    text = PREFIX + secrets.token_urlsafe(32)
    now = int(time.time())
    row = KeyRow(
        id=secrets.token_hex(4),
        name=name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        scopes=" ".join(scopes),
        created_s=now,
        expires_s=None if expires_days is None else now + round(expires_days * 86400),
        revoked_s=None,
    )
    try:
        with Session(engine or store.connect()) as session:
            session.add(row)
            session.commit()
            return _key(row), text
    except SQLAlchemyError as error:
        raise _database_error(error) from error


def list_keys(engine: Engine | None = None) -> list[Key]:
    """Every key, also revoked and expired ones, oldest first."""
    try:
        with Session(engine or store.connect()) as session:
            rows = session.scalars(select(KeyRow).order_by(KeyRow.created_s, KeyRow.id))
            return [_key(row) for row in rows]
    except SQLAlchemyError as error:
        raise _database_error(error) from error


def revoke(key_id: str, engine: Engine | None = None) -> Key:
    """End a key by its id; running gateways notice within ``gateway.KEYS_REFRESH_S``.

    Raises:
        ConfigError: There is no such key.
    """
    try:
        with Session(engine or store.connect()) as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise ConfigError(f"there is no key {key_id!r}", hint="tuneloop keys list  shows the ids")
            row.revoked_s = row.revoked_s or int(time.time())
            session.commit()
            return _key(row)
    except SQLAlchemyError as error:
        raise _database_error(error) from error


class KeyRing:
    """The keys a gateway knows.

    Args:
        keys: What ``list_keys`` gave.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    @classmethod
    def of(cls, *texts: str, scopes: tuple[Scope, ...] = ("chat",)) -> KeyRing:
        """A ring that knows these keys and no database."""
        return cls(Key(f"key{i}", f"key{i}", scopes, 0, digest=_digest(t)) for i, t in enumerate(texts))

    def find(self, text: str) -> Key | None:
        """The active key with this text. Every key is compared, whether or not one has matched before."""
        digest, found = _digest(text), None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest) and key.active:
                found = key
        return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _key(row: KeyRow) -> Key:
    scopes = tuple(s for s in SCOPES if s in row.scopes.split())
    return Key(row.id, row.name, scopes, row.created_s, row.expires_s, row.revoked_s, digest=bytes.fromhex(row.sha256))


def _database_error(error: SQLAlchemyError) -> ResourceError:
    return ResourceError(
        f"the key database does not answer: {error}".splitlines()[0],
        hint="another process may hold it; try again, or set TUNELOOP_DATABASE_URL",
    )
