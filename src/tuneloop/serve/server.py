"""A gateway behind a socket: start, announce, drain."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from tuneloop import models
from tuneloop.chat import Chat
from tuneloop.errors import ResourceError, ServeError, need
from tuneloop.progress import log
from tuneloop.serve import keys, rpc
from tuneloop.serve.app import create_app
from tuneloop.serve.config import ServeConfig
from tuneloop.serve.gateway import Gateway

BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn that tells the gateway when it drains, and ends in peace after a signal it was asked to end by."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(gateway),
                log_level="warning",
                access_log=False,
                server_header=False,
                log_config=None if gateway.logs.active else uvicorn.config.LOGGING_CONFIG,
                lifespan="on",
                timeout_graceful_shutdown=int(gateway.config.drain_timeout_s) or 1,
            )
        )
        self.gateway = gateway

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: no new requests, finish the accepted ones."""
        if not self.gateway.draining:
            self.gateway.draining = True
            log(f"draining: {self.gateway.process.in_flight} requests to finish (Ctrl-C again to stop at once)")
        super().handle_exit(sig, frame)
        if self.gateway.rpc is not None:
            self.gateway.rpc.hurry = self.force_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """gRPC is open as long as HTTP is: who sees one of them started can use both."""
        self.gateway.hub.loop = asyncio.get_running_loop()
        self.gateway.rpc = await rpc.start(self.gateway)
        await super().startup(sockets)
        if self.gateway.rpc is not None and not self.started:
            await self.gateway.rpc.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Both doors close at once; the engine stops when both have drained (``Gateway.close``)."""
        if self.gateway.rpc is not None:
            draining = asyncio.create_task(self.gateway.rpc.stop())
        await super().shutdown(sockets)
        if self.gateway.rpc is not None:
            await draining

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signal again when all is done; drained is done."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()


def serve(bundle_path: Path, config: ServeConfig) -> None:
    """See ``tuneloop.serve.run``."""
    bundle = models.open_bundle(bundle_path)
    if config.verify_weights:
        models.verify(bundle)
    listener = listen(config)
    with listener:
        rpc.check(config)
        fresh = _first_key(config)
        gateway = Gateway(config, bundle, Chat(models.load_tokenizer(bundle)))
        try:
            gateway.logs.start()
            gateway.process.start()
            _announce(gateway, listener, fresh)
            Server(gateway).run([listener])
            if gateway.cut:
                raise ServeError(
                    f"{gateway.cut} accepted requests were cut off: the time for draining was over before they were",
                    hint=f"raise serve.drain_timeout_s (now {config.drain_timeout_s:g}) or lower serve.max_tokens",
                )
        finally:
            gateway.process.close()
            gateway.logs.stop()


def listen(config: ServeConfig) -> socket.socket:
    """Take the port before anything slow happens.

    Raises:
        ResourceError: It is taken, or the address is not this machine's.
    """
    need("fastapi", "serve")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # The protocol must be named: asyncio switches Nagle's algorithm off only where it reads TCP there (40 ms a request).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"cannot listen: {os.strerror(error.errno) if error.errno else error}",
            where=f"{config.host}:{config.port}",
            hint="choose another port: serve.port=8001, or 0 for a free one",
        ) from None
    return listener


def _first_key(config: ServeConfig) -> str | None:
    """The very first key on a loopback address is made here, so that one command is enough to begin."""
    if not config.auth or not config.loopback or any(key.active for key in keys.list_keys()):
        return None
    _, text = keys.create("first", scopes=("chat", "metrics"))
    return text


def _announce(gateway: Gateway, listener: socket.socket, fresh: str | None) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    known = gateway.context
    log(
        f"serving {known.model} ({known.precision}, version {known.version}) with {gateway.process.name} at {address}/v1"
    )
    if fresh:
        log(f"API key (shown once): {fresh}")
    elif gateway.config.auth and not any(key.active for key in gateway.ring.keys):
        log("there is no API key yet: tuneloop keys create NAME")
    key = fresh or ("$KEY" if gateway.config.auth else "none")
    log(
        f"try: curl {address}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
        '-d \'{"messages":[{"role":"user","content":"Hello"}]}\''
    )
