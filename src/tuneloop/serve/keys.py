"""API keys: 256 random bits, shown once, kept as SHA-256, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from sqlalchemy import Engine, delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from tuneloop import store
from tuneloop.errors import ConfigError, ResourceError

Scope = Literal["chat", "batch", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "tl-"
GRACE_H = 24.0
"""How long the old secret of a rotated key goes on being valid, in hours, when nobody says."""


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


class LimitsRow(store.Base):
    """A key's own limits. A table of its own, so that databases made before there were limits need no change."""

    __tablename__ = "api_key_limits"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    tokens_per_day: Mapped[int | None]


class OldSecretRow(store.Base):
    """A secret that was replaced and still opens its key until ``expires_s``."""

    __tablename__ = "api_key_old_secrets"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(index=True)
    expires_s: Mapped[int]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much a key may ask for; None leaves it to the gateway's configuration, 0 is no limit at all."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None


NO_LIMITS = KeyLimits()


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
    limits: KeyLimits = NO_LIMITS
    replaced: tuple[tuple[bytes, int], ...] = ()
    """Digests of secrets before the last rotation, and until when they are valid."""

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
    limits: KeyLimits = NO_LIMITS,
    engine: Engine | None = None,
) -> tuple[Key, str]:
    """Make a key.

    Args:
        name: Who or what it is for.
        scopes: Of ``chat``, ``batch``, ``metrics``, ``admin`` (which includes the others).
        expires_days: When it ends; None means never.
        limits: Its own limits; what is None is left to the gateway.
        engine: The database; default ``store.connect()``.

    Returns:
        What is kept, and the key itself, which cannot be had again.

    Raises:
        ConfigError: An unknown scope, an expiry in the past, a negative limit.
        ResourceError: The database cannot be written.
    """
    if unknown := [s for s in scopes if s not in SCOPES]:
        raise ConfigError(f"there is no scope {unknown[0]!r}", hint=f"scopes: {', '.join(SCOPES)}")
    if not scopes or (expires_days is not None and expires_days <= 0):
        raise ConfigError("a key needs a scope and an expiry in the future", hint="--scope chat --expires-days 90")
    if any(value is not None and value < 0 for value in asdict(limits).values()):
        raise ConfigError("a limit is negative", hint="0 means no limit")
    text, digest = _secret()
    now = int(time.time())
    row = KeyRow(
        id=secrets.token_hex(4),
        name=name,
        sha256=digest,
        scopes=" ".join(scopes),
        created_s=now,
        expires_s=None if expires_days is None else now + round(expires_days * 86400),
        revoked_s=None,
    )
    with _session(engine) as session:
        session.add(row)
        if limits != NO_LIMITS:
            session.add(LimitsRow(key_id=row.id, **asdict(limits)))
        session.commit()
        return _key(row, limits), text


def list_keys(engine: Engine | None = None) -> list[Key]:
    """Every key, also revoked and expired ones, oldest first.

    Raises:
        ResourceError: The database cannot be read.
    """
    with _session(engine) as session:
        rows = session.scalars(select(KeyRow).order_by(KeyRow.created_s, KeyRow.id)).all()
        limits = {
            r.key_id: KeyLimits(r.requests_per_minute, r.tokens_per_minute, r.tokens_per_day)
            for r in session.scalars(select(LimitsRow))
        }
        replaced: dict[str, list[tuple[bytes, int]]] = {}
        for old in session.scalars(select(OldSecretRow).where(OldSecretRow.expires_s > time.time())):
            replaced.setdefault(old.key_id, []).append((bytes.fromhex(old.sha256), old.expires_s))
        return [_key(row, limits.get(row.id, NO_LIMITS), tuple(replaced.get(row.id, ()))) for row in rows]


def revoke(key_id: str, engine: Engine | None = None) -> Key:
    """End a key by its id, also its replaced secrets; running gateways notice within ``gateway.KEYS_REFRESH_S``.

    Raises:
        ConfigError: There is no such key.
        ResourceError: The database cannot be written.
    """
    with _session(engine) as session:
        row = _existing(session, key_id)
        row.revoked_s = row.revoked_s or int(time.time())
        session.execute(delete(OldSecretRow).where(OldSecretRow.key_id == key_id))
        session.commit()
        return _key(row)


def rotate(key_id: str, *, grace_h: float = GRACE_H, engine: Engine | None = None) -> tuple[Key, str]:
    """Give a key a new secret; id, name, scopes, limits and expiry stay.

    Args:
        key_id: As ``list_keys`` shows it.
        grace_h: For how many hours the old secret stays valid; 0 ends it at once.
        engine: The database; default ``store.connect()``.

    Returns:
        What is kept, and the new secret, which cannot be had again.

    Raises:
        ConfigError: There is no such key, it has ended, or the grace is negative.
        ResourceError: The database cannot be written.
    """
    if not 0 <= grace_h < 24 * 366:
        raise ConfigError(f"a grace of {grace_h} hours makes no sense", hint="--grace-h 24; 0 ends the old one now")
    with _session(engine) as session:
        row = _existing(session, key_id)
        if not _key(row).active:
            raise ConfigError(f"the key {key_id!r} has ended", hint="tuneloop keys create NAME  makes a new one")
        text, digest = _secret()
        until = int(time.time() + grace_h * 3600)
        # Within a first grace comes a second rotation: secrets that were replaced before keep their own end.
        session.execute(delete(OldSecretRow).where(OldSecretRow.expires_s <= time.time()))
        if grace_h:
            session.add(OldSecretRow(sha256=row.sha256, key_id=row.id, expires_s=until))
        row.sha256 = digest
        session.commit()
    return next(key for key in list_keys(engine) if key.id == key_id), text


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
        digest, found, now = _digest(text), None, time.time()
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest) and key.active:
                found = key
            for old, until_s in key.replaced:
                if hmac.compare_digest(old, digest) and key.active and now < until_s:
                    found = key
        return found


@contextmanager
def _session(engine: Engine | None) -> Iterator[Session]:
    """A session whose errors are ours; a database that was opened here is closed here."""
    own = engine is None
    engine = engine or store.connect()
    try:
        with Session(engine) as session:
            yield session
    except SQLAlchemyError as error:
        raise _database_error(error) from error
    finally:
        if own:
            engine.dispose()


def _existing(session: Session, key_id: str) -> KeyRow:
    if (row := session.get(KeyRow, key_id)) is None:
        raise ConfigError(f"there is no key {key_id!r}", hint="tuneloop keys list  shows the ids")
    return row


def _secret() -> tuple[str, str]:
    """A new secret and its hash: 256 bits from the system's generator."""
    text = PREFIX + secrets.token_urlsafe(32)
    return text, _digest(text).hex()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _key(row: KeyRow, limits: KeyLimits = NO_LIMITS, replaced: tuple[tuple[bytes, int], ...] = ()) -> Key:
    scopes = tuple(s for s in SCOPES if s in row.scopes.split())
    digest = bytes.fromhex(row.sha256)
    return Key(row.id, row.name, scopes, row.created_s, row.expires_s, row.revoked_s, digest, limits, replaced)


def _database_error(error: SQLAlchemyError) -> ResourceError:
    return ResourceError(
        f"the key database does not answer: {error}".splitlines()[0],
        hint="another process may hold it; try again, or set TUNELOOP_DATABASE_URL",
    )
