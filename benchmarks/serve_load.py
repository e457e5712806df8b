"""A light load generator for HTTP/1.1 servers of OpenAI's interface.

One asyncio protocol a connection; a request is bytes that were made before, an answer is kept as it came, with the
time of every arrival, and is understood when the run is over. What a request costs here (about 50 µs, 100 µs for a
stream of ten events) is the same for every arm.

* ``closed``: every connection sends its next request when the last one is answered. Measures throughput; its latencies
  are mostly waiting for the other connections' requests.
* ``paced``: requests come at random times (exponential gaps, one seed) at a given mean rate, each on an idle one of the
  connections. A latency begins at the time when the request should have been sent, so that a slow server cannot hide
  its delays by delaying the next request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 600.0
SEED = 5
_BETWEEN_EVENTS = re.compile(rb"\r?\n\r?\n")


@dataclass(slots=True)
class Shot:
    """One request: when it began, and what came when."""

    began: float
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Reply:
    """A shot, understood. Times are in seconds."""

    latency_s: float
    text: str
    tokens: int | None
    """By the server's own count; None where it says nothing."""
    texts: int
    """Events that brought text."""
    first_s: float | None
    """To the first text of a stream."""
    gaps_s: tuple[float, ...]
    """Between the texts of a stream."""
    error: str = ""


def request(port: int, path: str, body: Any, key: str) -> bytes:
    """A request as it goes over the wire."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class _Connection(asyncio.Protocol):
    def __init__(self, done: Callable[[_Connection], None]) -> None:
        self._done = done
        self.shot: Shot | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def send(self, data: bytes, began: float | None = None) -> None:
        self.shot = Shot(time.perf_counter() if began is None else began)
        self._left: int | None = None
        self._chunked, self._tail = False, b""
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        shot = self.shot
        if shot is None:
            return
        shot.arrivals.append((time.perf_counter(), data))
        if self._left is None and not self._chunked:
            whole = self._tail + data
            end = whole.find(b"\r\n\r\n")
            if end < 0:
                self._tail = whole
                return
            head = whole[:end].lower()
            if b"transfer-encoding: chunked" in head:
                self._chunked, data, self._tail = True, whole[end + 2 :], b""
            else:
                at = head.find(b"content-length:")
                self._left = int(head[at + 15 :].split(b"\r\n", 1)[0]) - (len(whole) - end - 4)
        elif self._left is not None:
            self._left -= len(data)
        if self._chunked:  # no event of a JSON text has a raw line end, so only the last chunk looks like this
            self._tail = (self._tail + data)[-7:]
            complete = self._tail.endswith(b"\r\n0\r\n\r\n")
        else:
            complete = self._left is not None and self._left <= 0
        if complete:
            shot.ended = shot.arrivals[-1][0]
            self._done(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self.shot is not None and not self.shot.ended:
            self.shot.ended, self.shot.error = time.perf_counter(), "the connection was closed"
            self._done(self)


async def _open(port: int, count: int, done: Callable[[_Connection], None]) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: _Connection(done), "127.0.0.1", port))[1] for _ in range(count)]


def closed(
    port: int, requests: Sequence[bytes], connections: int, *, count: int = 0, seconds: float = 0.0
) -> list[Shot]:
    """Send ``count`` requests, or for ``seconds``; the requests are taken in turn."""

    async def run() -> list[Shot]:
        shots: list[Shot] = []
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent = 0

        def more() -> bool:
            return sent < count if count else time.perf_counter() < until

        def start(connection: _Connection) -> None:
            nonlocal sent
            connection.send(requests[sent % len(requests)])
            sent += 1

        def done(connection: _Connection) -> None:
            assert connection.shot is not None
            shots.append(connection.shot)
            connection.shot = None
            if more() and not connection.closed:
                start(connection)
            elif len(shots) == sent and not over.done():
                over.set_result(None)

        opened = await _open(port, connections, done)
        until = time.perf_counter() + seconds
        for connection in opened:
            if more():
                start(connection)
        await asyncio.wait_for(over, TIMEOUT_S)
        for connection in opened:
            connection.transport.close()
        return shots

    return asyncio.run(run())


def paced(port: int, requests: Sequence[bytes], connections: int, *, rate: float, seconds: float) -> list[Shot]:
    """Send at random times, ``rate`` a second on average."""

    async def run() -> list[Shot]:
        shots: list[Shot] = []
        due: deque[float] = deque()
        idle: deque[_Connection] = deque()
        draw, loop = random.Random(SEED), asyncio.get_running_loop()
        sent = 0

        def send() -> None:
            nonlocal sent
            while due and idle:
                idle.popleft().send(requests[sent % len(requests)], due.popleft())
                sent += 1

        def done(connection: _Connection) -> None:
            assert connection.shot is not None
            shots.append(connection.shot)
            connection.shot = None
            if not connection.closed:
                idle.append(connection)
            send()

        idle.extend(await _open(port, connections, done))
        opened = list(idle)
        at = begun = time.perf_counter()
        asked = 0
        while (at := at + draw.expovariate(rate)) < begun + seconds:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            due.append(at)
            asked += 1
            send()
        deadline = loop.time() + TIMEOUT_S
        while len(shots) < asked and loop.time() < deadline and not all(c.closed for c in opened):
            await asyncio.sleep(0.01)
        for connection in opened:
            connection.transport.close()
        lost = asked - len(shots)
        return shots + [Shot(begun, [], time.perf_counter(), "no connection was left") for _ in range(lost)]

    return asyncio.run(run())


def understand(shot: Shot) -> Reply:
    """Read the status, and the JSON or the events."""
    latency = shot.ended - shot.began
    data = b"".join(part for _, part in shot.arrivals)
    head, _, body = data.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if shot.error or b" 200 " not in status + b" ":
        return Reply(latency, "", None, 0, None, (), shot.error or f"{status!r} {body[:200]!r}")
    if b"text/event-stream" in head.lower():
        return _stream(shot, latency)
    if b"transfer-encoding: chunked" in head.lower():
        body = b"".join(part for _, part in _payloads(shot))
    found = json.loads(body)
    choice = found["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Reply(latency, text, (found.get("usage") or {}).get("completion_tokens"), 1, None, ())


def _stream(shot: Shot, latency: float) -> Reply:
    """Every event gets the time of the arrival that completed it."""
    times: list[float] = []
    texts: list[str] = []
    tokens, seen, error = None, b"", ""
    for at, part in _payloads(shot):
        *events, seen = _BETWEEN_EVENTS.split(seen + part)
        for event in events:
            data = event.removeprefix(b"data:").strip()
            if not data.startswith(b"{"):
                continue
            found = json.loads(data)
            error = error or str(found.get("error") or "")
            tokens = (found.get("usage") or {}).get("completion_tokens") or tokens
            choice = (found.get("choices") or [{}])[0]
            text = (choice["delta"].get("content") if "delta" in choice else choice.get("text")) or ""
            if text:
                times.append(at)
                texts.append(text)
    gaps = tuple(b - a for a, b in itertools.pairwise(times))
    return Reply(latency, "".join(texts), tokens, len(texts), times[0] - shot.began if times else None, gaps, error)


def _payloads(shot: Shot) -> Iterator[tuple[float, bytes]]:
    """What a chunked body brought, and when each piece of it was complete."""
    raw, in_body = b"", False
    for at, part in shot.arrivals:
        raw += part
        if not in_body:
            _, mark, rest = raw.partition(b"\r\n\r\n")
            if not mark:
                continue
            raw, in_body = rest, True
        found = b""
        while (end := raw.find(b"\r\n")) > 0:
            length = int(raw[:end].split(b";")[0], 16)
            if len(raw) < end + 2 + length + 2:
                break
            found, raw = found + raw[end + 2 : end + 2 + length], raw[end + 2 + length + 2 :]
        if found:
            yield at, found


def share(values: Sequence[float], part: float) -> float:
    """A percentile by nearest rank; ``part`` between 0 and 1."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(part * 1000) * len(ordered) // 1000) - 1)]


def summary(speed: float, seconds: Sequence[float], firsts: Sequence[float], gaps: Sequence[float]) -> dict[str, float]:
    """The numbers that every engine arm gives; times in milliseconds."""
    out = {"speed": speed, "first token p50": share(firsts, 0.5) * 1000, "inter-token p50": share(gaps, 0.5) * 1000}
    return out | {f"p{p}": share(seconds, p / 100) * 1000 for p in (50, 95, 99)}
