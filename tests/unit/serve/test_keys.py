from __future__ import annotations

import hashlib
import sqlite3
import time
from pathlib import Path

import pytest

from tuneloop import store
from tuneloop.errors import ConfigError, ResourceError
from tuneloop.serve import keys
from tuneloop.serve.keys import KeyLimits, KeyRing


def test_a_key_has_256_bits_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    key, text = keys.create("laptop", scopes=("chat", "metrics"))
    assert len(text) == len(keys.PREFIX) + 43  # 32 bytes in base64url
    kept = b"".join(p.read_bytes() for p in store.home().glob("tuneloop.db*"))
    assert text.encode() not in kept
    assert key.digest.hex().encode() in kept
    assert keys.list_keys() == [key]


def test_a_ring_knows_its_keys_and_their_scopes() -> None:
    key, text = keys.create("a")
    _, other = keys.create("b", scopes=("admin",))
    ring = KeyRing(keys.list_keys())
    found, admin = ring.find(text), ring.find(other)
    assert found == key
    assert admin is not None
    assert (key.may("chat"), key.may("metrics"), admin.may("metrics")) == (True, False, True)
    for wrong in ("", text[:-1], text + "x", "tl-", "\ud800"):
        assert ring.find(wrong) is None


def test_every_key_is_compared_even_after_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    compare = keys.hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        nonlocal compared
        compared += 1
        return compare(a, b)

    monkeypatch.setattr(keys.hmac, "compare_digest", counting)
    assert KeyRing.of("first", "second", "third").find("first") is not None
    assert compared == 3


def test_revoked_and_expired_keys_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    revoked, revoked_text = keys.create("old")
    _, short_text = keys.create("short", expires_days=1)
    keys.revoke(revoked.id)
    ring = KeyRing(keys.list_keys())
    assert ring.find(revoked_text) is None
    assert ring.find(short_text) is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86400)
    assert ring.find(short_text) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"scopes": ("root",)},
        {"scopes": ()},
        {"expires_days": 0},
        {"expires_days": -1.0},
        {"limits": KeyLimits(tokens_per_day=-1)},
    ],
)
def test_a_senseless_key_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        keys.create("x", **bad)  # type: ignore[arg-type]


def test_revoking_an_unknown_key_is_an_error_with_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        keys.revoke("nope")
    assert "tuneloop keys list" in str(caught.value)


def test_a_rotated_key_opens_with_both_secrets_for_the_grace_period_only(monkeypatch: pytest.MonkeyPatch) -> None:
    key, old = keys.create("app", scopes=("chat", "batch"), limits=KeyLimits(tokens_per_day=10))
    rotated, new = keys.rotate(key.id, grace_h=2)
    assert (rotated.id, rotated.scopes, rotated.limits) == (key.id, key.scopes, key.limits)
    ring = KeyRing(keys.list_keys())
    assert ring.find(old) == ring.find(new) == rotated
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 3600 + 1)
    for late in (ring, KeyRing(keys.list_keys())):  # also one that has not been read again
        assert late.find(old) is None
        assert late.find(new) is not None


def test_a_rotation_without_grace_ends_the_old_secret_at_once() -> None:
    key, old = keys.create("leaked")
    _, new = keys.rotate(key.id, grace_h=0)
    ring = KeyRing(keys.list_keys())
    assert ring.find(old) is None
    assert ring.find(new) is not None


def test_revoking_a_rotated_key_ends_both_secrets() -> None:
    key, old = keys.create("app")
    _, new = keys.rotate(key.id)
    keys.revoke(key.id)
    ring = KeyRing(keys.list_keys())
    assert (ring.find(old), ring.find(new)) == (None, None)


def test_a_key_that_has_ended_cannot_be_rotated() -> None:
    key, _ = keys.create("app")
    keys.revoke(key.id)
    with pytest.raises(ConfigError, match="has ended"):
        keys.rotate(key.id)


def test_a_database_from_before_limits_and_rotation_is_read_as_it_is() -> None:
    """The table as the first version made it, with one key in it."""
    text = "tl-from-before"
    digest = hashlib.sha256(text.encode()).hexdigest()
    with sqlite3.connect(store.home() / "tuneloop.db") as old:
        old.execute(
            "CREATE TABLE api_keys (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, sha256 VARCHAR NOT NULL "
            "UNIQUE, scopes VARCHAR NOT NULL, created_s INTEGER NOT NULL, expires_s INTEGER, revoked_s INTEGER)"
        )
        old.execute("INSERT INTO api_keys VALUES ('1a2b3c4d', 'old', ?, 'chat', 1, NULL, NULL)", (digest,))
    old.close()
    found = KeyRing(keys.list_keys()).find(text)
    assert found is not None
    assert found.limits == KeyLimits()
    _, new = keys.rotate("1a2b3c4d")
    assert KeyRing(keys.list_keys()).find(new) is not None


@pytest.mark.parametrize("content", [b"this is no database, it is only long enough to be read " * 20, None])
def test_a_broken_or_locked_database_is_an_error_and_never_an_empty_ring(
    content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that starts then says so and ends, instead of letting nobody (or anybody) in."""
    path = store.home() / "tuneloop.db"
    holder = None
    if content is None:
        keys.create("app")
        monkeypatch.setattr(
            store, "_sqlite_pragmas", lambda connection, _: connection.execute("PRAGMA busy_timeout=50")
        )
        holder = sqlite3.connect(path)
        holder.execute("PRAGMA journal_mode=DELETE")
        holder.execute("BEGIN EXCLUSIVE")
    else:
        path.write_bytes(content)
    with pytest.raises(ResourceError) as caught:
        keys.list_keys()
    assert "hint:" in str(caught.value)
    if holder is not None:
        holder.close()
        assert len(keys.list_keys()) == 1
