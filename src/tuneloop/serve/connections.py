"""HTTP connections with deadlines: for a head to come, for an answer to be read, and for how many there may be.

uvicorn waits for ever for a request that has begun, and for a client that does not read. Here one task looks at all
connections several times a second, which costs a request nothing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tuneloop.serve.api_error import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from tuneloop.serve.config import ServeConfig
    from tuneloop.serve.metrics import Metrics
    from tuneloop.serve.shield import ShieldConfig

SWEEP_S = 0.25
"""How often connections are looked at; deadlines are kept to this."""


class Connection(HttpToolsProtocol):
    """One connection. ``shield`` and ``metrics`` are set by ``Settings``."""

    shield: ShieldConfig
    metrics: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Welcome it, or close it where there are too many."""
        self._head_since: float | None = time.monotonic()
        self._body_since: float | None = None
        self._unread_since: float | None = None
        self._undelivered = 0
        """Bytes since the parser last completed a head or gave a piece of a body: it keeps heads and trailers whole."""
        super().connection_made(transport)
        if len(self.connections) > self.shield.max_connections:
            self.metrics.closed("too_many_connections")
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what has come. The clock of a head runs from its first byte to its end."""
        if self._head_since is None and self._body_since is None:
            self._head_since = time.monotonic()
        self._undelivered += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._undelivered > self.shield.max_head_bytes and not self.transport.is_closing():
            self.send_400_response("")

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._parse(self._without_offer() + data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _without_offer(self) -> bytes:
        """The head that has just come, without the offer to speak another protocol; with it the parser leaves the body
        out. Java's client offers HTTP/2 with every request; there is nothing but HTTP/1.1 here."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        rest = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([method + b" " + self.url + b" HTTP/" + version, *rest, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_since is None:  # it came in one piece with the end of the last one
            self._head_since = time.monotonic()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body_since is None:  # else it stands after the body, where nobody asks for it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer.

        Raises:
            ValueError: There is no Host (RFC 9112, 3.2), or it is for a proxy. The parser makes it an error of its own.
        """
        if self.parser.get_http_version() == "1.1" and not any(name == b"host" for name, _ in self.headers):
            raise ValueError("no Host")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("no proxy")
            return
        self._undelivered, self._head_since, self._body_since = 0, None, time.monotonic()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._undelivered = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():  # else it comes again
            self._undelivered, self._body_since = 0, None
            super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read: from now on it has ``write_timeout_s``."""
        self._unread_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def sweep(self, now: float) -> None:
        """Close the connection when a deadline is over."""
        shield, answered = self.shield, self.cycle is None or self.cycle.response_complete
        if self._head_since is not None and not answered:
            self._head_since = now  # it has come early: its time begins when the answer before it is complete
        elif self._head_since is not None and now - self._head_since > shield.head_timeout_s:
            self._head_since = None
            self.metrics.closed("slow_head")
            self._refuse(ApiError(408, "the request did not come in time", code="request_timeout"))
        # While the application reads a body it keeps the time itself; this is the rest of one that was refused.
        if answered and self._body_since is not None and now - self._body_since > shield.body_timeout_s:
            self.metrics.closed("slow_body")
            self.transport.abort()
        if self._unread_since is None:
            # An answer that is complete may still lie in our buffer, or hinder the connection from closing.
            resting = answered or self.transport.is_closing()
            if resting and self.transport.get_write_buffer_size():
                self._unread_since = now
        elif not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif now - self._unread_since > shield.write_timeout_s:
            self.metrics.closed("slow_reader")
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused in the words of every other error, and not written to the log each time."""
        self.metrics.closed("invalid_http")
        self._refuse(ApiError(400, "this is not valid HTTP, or its head is too long", code="invalid_http"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["method"] != "HEAD":  # there, no body follows
            # Of a transport, a cycle uses nothing but what this has.
            cycle.transport = HeadWithBody(cycle)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, whole(app) if cycle.scope["http_version"] == "1.0" else app)

    def _refuse(self, error: ApiError) -> None:
        """Answer outside of any application, and close."""
        if self.cycle is None or self.cycle.response_complete or not (self.cycle.response_started or self.pipeline):
            body = bytes(error.response().body)
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status_code] + head + body)
            self.metrics.request("none", error.status_code)
        self.transport.close()


class HeadWithBody:
    """The transport of one answer, as uvicorn uses it: its head waits for the first piece of its body, so that both go
    out in one packet and wake the client once.

    Args:
        cycle: The answer.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle: RequestResponseCycle | None = cycle
        self._transport = cycle.transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._cycle is not None and self._cycle.response_started:  # before it, there is only "100 Continue"
            self._head, self._cycle = data, None  # each holds the other no more
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def whole(app: Any) -> Any:
    """For clients that speak HTTP/1.0, which has no chunks: an answer without a length is kept until it has one."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        body = bytearray()

        async def kept(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and not any(
                k == b"content-length" for k, _ in message["headers"]
            ):
                start = message
            elif start is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    length = (b"content-length", str(len(body)).encode())
                    await send({**start, "headers": [*start["headers"], length]})
                    await send({"type": "http.response.body", "body": bytes(body)})

        await app(scope, receive, kept)

    return wrapped


class Settings(uvicorn.Config):
    """uvicorn's settings for a gateway.

    Args:
        app: What is served.
        config: The gateway's configuration.
        metrics: Where refused connections are counted.
        context: TLS; None for none.
        lifespan: Whether the application has a start and an end.
        own_logs: Our logs take what uvicorn says; without them it writes as it is used to.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        metrics: Metrics,
        context: ssl.SSLContext | None,
        *,
        lifespan: bool,
        own_logs: bool,
    ) -> None:
        kind = type("Connection", (Connection,), {"shield": config.shield, "metrics": metrics})
        self._context = context
        super().__init__(
            app,
            http=kind,
            ws="none",
            log_config=None if own_logs else uvicorn.config.LOGGING_CONFIG,
            log_level="error",  # its warnings are about what clients send: those are counted instead
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on" if lifespan else "off",
            timeout_keep_alive=config.shield.keep_alive_s,  # type: ignore[arg-type]
            timeout_graceful_shutdown=int(config.drain_timeout_s) or 1,
        )

    def load(self) -> None:
        super().load()
        self.ssl = self._context


async def sweep(connections: set[Any]) -> None:
    """Keep the deadlines of these connections until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_S)
        now = time.monotonic()
        for connection in list(connections):
            connection.sweep(now)
