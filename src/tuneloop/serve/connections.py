"""HTTP connections with deadlines: for a head to come, for an answer to be read, and for how many there may be.

uvicorn waits for ever for a request that has begun, and for a client that does not read. Here one task looks at all
connections several times a second, which costs a request nothing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from tuneloop.serve.api_error import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from tuneloop.serve.config import ServeConfig
    from tuneloop.serve.metrics import Metrics
    from tuneloop.serve.shield import ShieldConfig

SWEEP_S = 0.25
"""How often connections are looked at; deadlines are kept to this."""


class Connection(H11Protocol):
    """One connection. ``shield`` and ``metrics`` are set by ``Settings``."""

    shield: ShieldConfig
    metrics: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Welcome it, or close it where there are too many."""
        self._head_since: float | None = time.monotonic()
        self._body_since: float | None = None
        self._unread_since: float | None = None
        super().connection_made(transport)
        if len(self.connections) > self.shield.max_connections:
            self.metrics.closed("too_many_connections")
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._head_since is None and self.conn.their_state is h11.IDLE:
            self._head_since = time.monotonic()
        super().data_received(data)

    def handle_events(self) -> None:
        """Parse what has come; the clock of the head stops when the head is complete."""
        super().handle_events()
        if self.conn.their_state is not h11.SEND_BODY:
            self._body_since = None
        elif self._body_since is None:
            self._body_since = time.monotonic()
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None
        elif self._head_since is None and self.conn.trailing_data[0]:
            self._head_since = time.monotonic()  # a further request came in one piece with the end of the last one

    def pause_writing(self) -> None:
        """The client does not read: from now on it has ``write_timeout_s``."""
        self._unread_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def sweep(self, now: float) -> None:
        """Close the connection when a deadline is over."""
        shield = self.shield
        if self._head_since is not None and now - self._head_since > shield.head_timeout_s:
            self._head_since = None
            self.metrics.closed("slow_head")
            self._refuse(ApiError(408, "the request did not come in time", code="request_timeout"))
        # While the application reads a body it keeps the time itself; this is the rest of one that was refused.
        answered = self.cycle is not None and self.cycle.response_complete
        if answered and self._body_since is not None and now - self._body_since > shield.body_timeout_s:
            self.metrics.closed("slow_body")
            self.transport.abort()
        if self._unread_since is None:
            # An answer that is complete may still lie in our buffer, or hinder the connection from closing.
            resting = self.cycle is None or answered or self.transport.is_closing()
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

    def _unsupported_upgrade_warning(self) -> None:
        """There are no websockets; a client that asks for one gets an HTTP answer."""

    def _refuse(self, error: ApiError) -> None:
        """Answer outside of any application, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = bytes(error.response().body)
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            head = h11.Response(
                status_code=error.status_code, headers=headers, reason=STATUS_PHRASES[error.status_code]
            )
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.metrics.request("none", error.status_code)
        self.transport.close()


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
            h11_max_incomplete_event_size=config.shield.max_head_bytes,
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
