"""Clients that are slow, greedy or ambiguous on purpose, over raw sockets. Deadlines are short here, to be fast."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.serve.shield import ShieldConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.gateway import Gateway  # noqa: E402

DEADLINE_S = 0.8
SLACK_S = 1.0
"""Sweeps are 0.25 s apart; the rest is for a busy machine."""
CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "I lost my card"}]}


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


class Site:
    """A gateway with short deadlines, and raw connections to it."""

    def __init__(self, gateway: Gateway, url: str, key: str) -> None:
        self.gateway, self.url, self.key = gateway, url, key
        self.headers = {"Authorization": f"Bearer {key}"}
        self.port = int(url.rpartition(":")[2])

    def connect(self, **options: int) -> socket.socket:
        made = socket.socket()
        for name, value in options.items():
            made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        made.settimeout(10)
        made.connect(("127.0.0.1", self.port))
        return made

    def head(self, length: int | None = None, *more: str, path: str = CHAT, key: str | None = None) -> bytes:
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: x",
            "Content-Type: application/json",
            f"Authorization: Bearer {key or self.key}",
            *more,
        ]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        return "\r\n".join([*lines, "", ""]).encode()

    def alive(self) -> None:
        """It still answers everybody else, quickly."""
        reply = httpx.post(self.url + CHAT, json=ASK | {"max_tokens": 2}, headers=self.headers, timeout=5)
        assert reply.status_code == 200, reply.text

    def closed(self, reason: str) -> float:
        lines = httpx.get(f"{self.url}/metrics", headers=self.headers).text.splitlines()
        return sum(
            float(x.split()[-1]) for x in lines if "tuneloop_connections_closed_total" in x and f'"{reason}"' in x
        )

    def errors(self) -> float:
        lines = httpx.get(f"{self.url}/metrics", headers=self.headers).text.splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith("tuneloop_errors_total"))


@pytest.fixture(scope="module")
def site(bundle: Bundle) -> Iterator[Site]:
    shield = ShieldConfig(
        head_timeout_s=DEADLINE_S,
        body_timeout_s=DEADLINE_S,
        keep_alive_s=DEADLINE_S,
        write_timeout_s=DEADLINE_S,
        max_connections=40,
        max_head_bytes=8192,
        max_url_bytes=1024,
    )
    engine = EngineConfig(name="fake", max_running=2, stream_interval_s=0, fake=FakeConfig(answer_ids=(70,) * 4000))
    with running(ServeConfig(engine=engine, model_name="m" * 3000, shield=shield), bundle) as (gateway, url, key):
        yield Site(gateway, url, key)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes; a reset is an end too."""
    got = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            got += data
    return got


def drip(connection: socket.socket, data: bytes, pause_s: float) -> float:
    """Send byte by byte until the other side has had enough; seconds until then."""
    begun = time.monotonic()
    connection.setblocking(False)
    for byte in data:
        try:
            connection.send(bytes([byte]))
            if connection.recv(1, socket.MSG_PEEK) is not None:  # an answer, or the end
                break
        except BlockingIOError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            break
        time.sleep(pause_s)
    connection.settimeout(10)
    return time.monotonic() - begun


def flood(connection: socket.socket, piece: bytes) -> int:
    """Send until the other side has had enough; how many bytes that took."""
    sent = 0
    with suppress(ConnectionResetError, BrokenPipeError):
        while sent < 50_000_000:
            connection.sendall(piece)
            sent += len(piece)
            time.sleep(0.001)  # so that what was sent before has been read
    return sent


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> dict[str, Any]:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]  # type: ignore[no-any-return]


def test_headers_a_byte_at_a_time_are_cut_off_at_the_deadline(site: Site) -> None:
    with site.connect() as slow:
        took = drip(slow, site.head(2) * 50, 0.05)
        answer = read_all(slow)
    assert DEADLINE_S - 0.1 < took < DEADLINE_S + SLACK_S
    assert (status_of(answer), error_of(answer)["code"]) == (408, "request_timeout")
    site.alive()


def test_a_body_a_byte_at_a_time_is_cut_off_at_the_deadline(site: Site) -> None:
    with site.connect() as slow:
        slow.sendall(site.head(1000))
        took = drip(slow, b" " * 1000, 0.05)
        answer = read_all(slow)
    assert DEADLINE_S - 0.1 < took < DEADLINE_S + SLACK_S
    assert (status_of(answer), error_of(answer)["code"]) == (408, "request_timeout")
    site.alive()


def test_a_chunked_body_that_never_ends_is_cut_off_too(site: Site) -> None:
    with site.connect() as slow:
        slow.sendall(site.head(None, "Transfer-Encoding: chunked"))
        took = drip(slow, b"1\r\n \r\n" * 300, 0.03)
        assert status_of(read_all(slow)) == 408
    assert took < DEADLINE_S + SLACK_S


def test_a_refused_client_may_not_go_on_sending_for_ever(site: Site) -> None:
    """401 comes at once; the rest of the body is thrown away, but only for so long."""
    with site.connect() as slow:
        slow.sendall(site.head(100_000, key="wrong"))
        assert status_of(slow.recv(65536)) == 401
        begun = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012
            while time.monotonic() - begun < 10:
                slow.sendall(b" ")
                time.sleep(0.05)
    assert time.monotonic() - begun < DEADLINE_S + SLACK_S


def test_a_second_request_on_a_connection_has_the_same_deadline(site: Site) -> None:
    body = json.dumps(ASK | {"max_tokens": 1}).encode()
    with site.connect() as slow:
        slow.sendall(site.head(len(body)) + body)
        assert status_of(slow.recv(65536)) == 200
        took = drip(slow, site.head(2) * 50, 0.05)
        assert took < DEADLINE_S + SLACK_S


def test_connections_that_say_nothing_are_closed_and_hinder_nobody(site: Site) -> None:
    with ExitStack() as open_:
        idle = [open_.enter_context(site.connect()) for _ in range(30)]
        site.alive()
        begun = time.monotonic()
        for connection in idle:
            read_all(connection)
        assert time.monotonic() - begun < DEADLINE_S + SLACK_S
    site.alive()


def test_a_connection_too_many_is_closed_at_once_and_room_comes_back(site: Site) -> None:
    with ExitStack() as open_:
        many = [open_.enter_context(site.connect()) for _ in range(60)]
        time.sleep(0.2)
        assert sum(is_closed(connection) for connection in many) >= 20
    time.sleep(0.5)
    site.alive()
    assert site.closed("too_many_connections") >= 20


def test_a_client_that_does_not_read_its_stream_is_cut_off_and_its_place_freed(site: Site) -> None:
    """The answer (10 MB: each event names the model) is larger than what the sockets between us hold."""
    body = json.dumps(ASK | {"max_tokens": 3500, "stream": True}).encode()
    before = site.closed("slow_reader")
    with site.connect(SO_RCVBUF=4096) as deaf:
        deaf.sendall(site.head(len(body)) + body)
        assert deaf.recv(100).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        while site.closed("slow_reader") == before:
            assert time.monotonic() - begun < 15
            time.sleep(0.05)
        while site.gateway.hub._streams:
            assert time.monotonic() - begun < 15
            time.sleep(0.01)
    site.alive()


@pytest.mark.parametrize(
    "message",
    [
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nX: a\r\n b: folded\r\nContent-Length : 3\r\n\r\nabc",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nX\0Y: z\r\n\r\n",
        b"POST /generate HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32,
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_clear_http_is_a_400_in_openais_shape_and_the_connection_closes(site: Site, message: bytes) -> None:
    with site.connect() as connection:
        connection.sendall(message)
        answer = read_all(connection)
    assert status_of(answer) in (400, 501)
    assert error_of(answer)["code"] == "invalid_http"
    assert b"connection: close" in answer.lower()


def test_a_request_with_two_lengths_is_refused_and_what_follows_is_not_a_request(site: Site) -> None:
    """A proxy that believes Content-Length would take the smuggled part for the body; a second answer would betray us."""
    smuggled = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
    length = len(smuggled) + 5
    for head in (
        site.head(length, "Transfer-Encoding: chunked"),
        site.head(None, f"Content-Length: {length}", "Transfer-Encoding: chunked"),
    ):
        with site.connect() as connection:
            connection.sendall(head + b"0\r\n\r\n" + smuggled)
            answer = read_all(connection)
        assert (status_of(answer), error_of(answer)["code"]) == (400, "invalid_http")
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("piece", [b"x: " + b"y" * 1000, b"x: y\r\n" * 200], ids=["one that never ends", "many"])
def test_trailers_are_bounded_as_heads_are(site: Site, piece: bytes) -> None:
    with site.connect() as connection:
        connection.sendall(site.head(None, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n")
        assert flood(connection, piece) < 200_000
    site.alive()


def test_the_extensions_of_a_chunk_are_bounded(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(site.head(None, "Transfer-Encoding: chunked") + b"2;a=")
        assert flood(connection, b"y" * 1000) < 200_000
    site.alive()


def test_empty_lines_before_a_request_are_bounded(site: Site) -> None:
    with site.connect() as connection:
        assert flood(connection, b"\r\n" * 500) < 200_000


def test_a_request_that_comes_early_does_not_end_the_answer_before_it(bundle: Bundle) -> None:
    """Its deadline begins when the answer is complete, which takes longer than the deadline here."""
    engine = EngineConfig(name="fake", fake=FakeConfig(answer_ids=(70,) * 200, token_delay_s=0.01))
    with running(ServeConfig(engine=engine, shield=ShieldConfig(head_timeout_s=DEADLINE_S)), bundle) as (
        gateway,
        url,
        key,
    ):
        slow = Site(gateway, url, key)
        body = json.dumps(ASK | {"max_tokens": 190, "stream": True}).encode()
        with slow.connect() as connection:
            begun = time.monotonic()
            connection.sendall(slow.head(len(body)) + body + slow.head(2)[:40])
            got = read_all(connection)
    assert time.monotonic() - begun > DEADLINE_S * 2
    assert got.count(b"data: [DONE]") == 1
    assert got.count(b"HTTP/1.1 408") == 1


def test_http_1_0_gets_a_stream_whole_because_it_knows_no_chunks(site: Site) -> None:
    body = json.dumps(ASK | {"max_tokens": 3, "stream": True}).encode()
    with site.connect() as connection:
        connection.sendall(site.head(len(body)).replace(b"HTTP/1.1", b"HTTP/1.0", 1) + body)
        head, _, said = read_all(connection).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert f"content-length: {len(said)}".encode() in head.lower()
    assert said.endswith(b"data: [DONE]\n\n")


def test_a_long_url_and_many_headers_have_their_own_status(site: Site) -> None:
    assert httpx.get(f"{site.url}/v1/models?{'x' * 1025}", headers=site.headers).status_code == 414
    assert httpx.get(f"{site.url}/v1/models", headers=site.headers | {"x": "y" * 8192}).status_code == 431
    many = site.headers | {f"x-{i}": "y" for i in range(70)}
    assert httpx.get(f"{site.url}/v1/models", headers=many).status_code == 431


def test_deep_json_is_a_400_also_in_another_encoding(site: Site) -> None:
    deep = '{"messages": ' + "[" * 5000 + "]" * 5000 + "}"
    for content in (deep.encode(), deep.encode("utf-16"), deep.replace("[", '{"a":').replace("]", "}").encode()):
        reply = httpx.post(site.url + CHAT, content=content, headers=site.headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


def test_lone_surrogates_are_a_400(site: Site) -> None:
    """JSON can spell them, UTF-8 and tokenizers cannot."""
    for body in (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"messages": [], "\\udfff": 1}'):
        headers = site.headers | {"Content-Type": "application/json"}
        assert httpx.post(site.url + CHAT, content=body, headers=headers).status_code == 400


def test_a_websocket_is_answered_as_the_http_request_that_it_is(site: Site) -> None:
    more = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    with site.connect() as connection:
        connection.sendall(site.head(0, *more))
        assert status_of(connection.recv(65536)) == 400  # an empty body


@pytest.mark.parametrize("pieces", [1, 7])
def test_an_offer_of_another_protocol_is_declined_and_the_request_answered(site: Site, pieces: int) -> None:
    """Java's HttpClient offers h2c with every request."""
    body = json.dumps(ASK | {"max_tokens": 1}).encode()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    whole = (site.head(len(body), *offer) + body) * 2
    with site.connect() as connection:
        for i in range(pieces):
            connection.sendall(whole[len(whole) * i // pieces : len(whole) * (i + 1) // pieces])
            time.sleep(0.01)
        got = b""
        while got.count(b'"usage"') < 2:
            more = connection.recv(65536)
            assert more, got
            got += more
    assert got.count(b"HTTP/1.1 200") == 2


def test_a_gateway_is_no_proxy(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert status_of(read_all(connection)) == 400


def test_requests_in_a_row_are_answered_in_a_row(site: Site) -> None:
    bodies = [json.dumps(ASK | {"max_tokens": n}).encode() for n in (1, 2, 3)]
    with site.connect() as connection:
        connection.sendall(b"".join(site.head(len(body)) + body for body in bodies))
        got = b""
        while got.count(b'"usage"') < 3:
            got += connection.recv(65536)
    assert re.findall(rb'"completion_tokens":(\d+)', got) == [b"1", b"2", b"3"]


def test_what_clients_do_wrong_is_no_error_of_ours(site: Site) -> None:
    """Whoever is woken by an alert must be able to mend something."""
    before = site.errors()
    with site.connect() as slow:
        slow.sendall(site.head(1000))
        assert status_of(read_all(slow)) == 408
    with site.connect() as strange:
        strange.sendall(b"no HTTP at all\r\n\r\n")
        assert status_of(read_all(strange)) == 400
    for headers, path, status in ((site.headers, "/v1/x", 404), ({}, CHAT, 401), (site.headers, CHAT, 400)):
        assert httpx.post(site.url + path, headers=headers, json={}).status_code == status
    assert site.errors() == before
