from __future__ import annotations

import time
from pathlib import Path

import pytest

from tuneloop import store
from tuneloop.errors import ConfigError
from tuneloop.serve import keys
from tuneloop.serve.keys import KeyRing


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


@pytest.mark.parametrize("bad", [{"scopes": ("root",)}, {"scopes": ()}, {"expires_days": 0}, {"expires_days": -1.0}])
def test_a_senseless_key_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        keys.create("x", **bad)  # type: ignore[arg-type]


def test_revoking_an_unknown_key_is_an_error_with_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        keys.revoke("nope")
    assert "tuneloop keys list" in str(caught.value)
