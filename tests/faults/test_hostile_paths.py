"""Ways around the door, over raw sockets: strange paths, methods and targets, pipelining, upgrades, bombs of headers."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tuneloop.engines import EngineConfig
from tuneloop.models import open_bundle
from tuneloop.serve import ServeConfig

pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running
from tuneloop.serve.keys import KeyRing

ASK = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
TARGETS = [
    "//v1/chat/completions", "/v1//chat/completions", "/v1/./chat/completions", "/./metrics", "/%6detrics", "/%2fmetrics",
    "/v1/models/../../metrics", "/healthz/../metrics", "/healthz/%2e%2e/metrics", "/healthz%2f..%2fmetrics", "/healthz%00",
    "/healthz/", "/healthz;x", "/healthz%3f", "/HEALTHZ", "/readyz/..", "/healthz\\..\\metrics", "/metrics?/healthz",
    "/metrics#/healthz", "/v1/chat/completions%20", "/v1/chat/completions%0d%0a", "http://healthz/metrics", "/openapi.json",
    "http:/healthz/../metrics", "//healthz@x/metrics", "*", "/%c0%ae%c0%ae/metrics", "/..;/healthz/metrics", "healthz",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X-ANY"]


class Site:
    """A gateway, asked byte by byte."""

    def __init__(self, url: str, key: str) -> None:
        self.port, self.key = int(url.rpartition(":")[2]), key

    def say(self, data: bytes) -> bytes:
        """Everything that comes back until the other side closes."""
        got = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as made, suppress(ConnectionError):
            made.sendall(data)
            while more := made.recv(65536):
                got += more
        return got

    def request(
        self, target: str, method: str = "GET", body: bytes = b"", key: str = "", close: bool = True, more: str = ""
    ) -> bytes:
        secret = f"Authorization: Bearer {key}\r\n" if key else ""
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        end = "Connection: close\r\n" if close else ""
        return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{secret}{kind}{more}{end}\r\n".encode() + body

    def status(self, target: str, method: str = "GET", body: bytes = b"", key: str = "") -> int:
        return statuses(self.say(self.request(target, method, body, key)))[0]


def statuses(answers: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


@pytest.fixture(scope="module")
def site(tiny: Callable[..., Path]) -> Iterator[Site]:
    config = ServeConfig(engine=EngineConfig(name="fake"))
    with running(config, open_bundle(tiny("llama", "chatml"))) as (gateway, url, key):
        gateway.ring = KeyRing.of(key, scopes=("chat",))
        yield Site(url, key)


@pytest.mark.parametrize("target", TARGETS)
def test_no_spelling_of_a_path_opens_a_route_without_a_key(site: Site, target: str) -> None:
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        assert site.status(target, method, ASK if method == "POST" else b"") in (400, 401), method


@pytest.mark.parametrize("method", METHODS)
def test_no_method_opens_a_route_without_a_key(site: Site, method: str) -> None:
    for target in ("/v1/chat/completions", "/v1/files", "/metrics", "/v1/models", "/anything"):
        assert site.status(target, method) in (400, 401), target
    assert site.status("/healthz", method) in ((200,) if method in ("GET", "HEAD") else (400, 405))


@pytest.mark.parametrize("target", TARGETS)
def test_no_spelling_of_a_path_gives_a_key_another_scope(site: Site, target: str) -> None:
    """The key opens chats only: whatever the spelling, no metrics and no list of batches comes out."""
    for prefix in ("", "/v1/chat/completions/..", "/generate/.."):
        answer = site.say(site.request(f"{prefix}{target}", key=site.key))
        assert statuses(answer)[0] in (400, 403, 404, 405), prefix
        assert b"tuneloop_" not in answer


def test_requests_in_one_piece_are_answered_in_order_each_by_its_own_key(site: Site) -> None:
    chat = "/v1/chat/completions"
    pieces = [
        site.request(chat, "POST", ASK, site.key, close=False),
        site.request(chat, "POST", ASK, "", close=False),  # nobody inherits a key
        site.request("/v1/models", key=site.key, close=False),
        site.request("/metrics", close=False),
        site.request("/healthz"),
    ]
    assert statuses(site.say(b"".join(pieces))) == [200, 401, 200, 401, 200]


def test_an_upgrade_without_a_key_is_refused(site: Site) -> None:
    for more in (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    ):
        answer = site.say(site.request("/v1/models", more=more))
        assert statuses(answer) == [401]
        assert b"101 " not in answer


def test_a_body_is_not_invited_from_somebody_without_a_key(site: Site) -> None:
    head = site.request("/v1/chat/completions", "POST", more="Expect: 100-continue\r\nContent-Length: 900000\r\n")
    assert statuses(site.say(head)) == [401]


@pytest.mark.parametrize(
    "bomb",
    [
        "GET /v1/models HTTP/1.1\r\nHost: x\r\n" + "a: b\r\n" * 100_000 + "\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: x\r\n" + "".join(f"h{i}: b\r\n" for i in range(1000)) + "\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: x\r\nx: " + "y" * 5_000_000 + "\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: x\r\n" + "y" * 5_000_000 + ": x\r\n\r\n",
        "GET /" + "y" * 5_000_000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v1/models?" + "a=b&" * 20_000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
        "Y" * 5_000_000 + " / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: x\r\n" + "Authorization: Bearer x\r\n" * 50 + "\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + "x" * 20_000 + "\r\nConnection: close\r\n\r\n",
        "POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;"
        + "e" * 5_000_000
        + "\r\nx\r\n0\r\n\r\n",
    ],
    ids=[
        "many",
        "thousand",
        "long-value",
        "long-name",
        "long-url",
        "long-query",
        "long-method",
        "keys",
        "long-key",
        "chunk",
    ],
)
def test_a_bomb_is_refused_and_hurts_nobody(site: Site, bomb: str) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as made:
        with suppress(ConnectionError):  # it may be refused before everything is sent
            made.sendall(bomb.encode())
        with suppress(ConnectionError):
            answer = made.recv(65536)
            assert not answer or 400 <= statuses(answer)[0] < 500
    assert site.status("/v1/chat/completions", "POST", ASK, site.key) == 200
