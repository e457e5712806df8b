"""A gateway behind a socket: start, announce, drain."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from tuneloop import models
from tuneloop.chat import Chat
from tuneloop.errors import ResourceError, ServeError, need
from tuneloop.progress import log
from tuneloop.serve import keys, rpc, tls
from tuneloop.serve.app import create_app, create_metrics_app
from tuneloop.serve.config import ServeConfig
from tuneloop.serve.connections import Settings, sweep
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.keys import KeyRing

BACKLOG = 2048
SPARE_FILES = 256
"""Open files beside connections: the engine, the database, logs."""


class Server(uvicorn.Server):
    """uvicorn that tells the gateway when it drains, and ends in peace after a signal it was asked to end by."""

    def __init__(self, gateway: Gateway) -> None:
        config, context, own = gateway.config, tls.context(gateway.config.tls), gateway.logs.active
        super().__init__(Settings(create_app(gateway), config, gateway.metrics, context, lifespan=True, own_logs=own))
        self.gateway = gateway
        self.metrics_listener: socket.socket | None = None
        if config.metrics_port is not None:
            self.metrics_listener = _listen(config.metrics_host, config.metrics_port)
            here = None if config.metrics_loopback else context
            settings = Settings(
                create_metrics_app(gateway), config, gateway.metrics, here, lifespan=False, own_logs=own
            )
            self._metrics = uvicorn.Server(settings)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve, and the metrics on their own port, until told to stop; the metrics stop last."""
        beside = [asyncio.create_task(sweep(self.server_state.connections))]
        if self.metrics_listener is not None:
            beside.append(asyncio.create_task(sweep(self._metrics.server_state.connections)))
            metrics = asyncio.create_task(self._metrics._serve([self.metrics_listener]))
        with self._hangup():
            try:
                await super().serve(sockets)
            finally:
                if self.metrics_listener is not None:
                    self._metrics.should_exit = True
                    await metrics
                for task in beside:
                    task.cancel()

    @contextmanager
    def _hangup(self) -> Iterator[None]:
        """SIGHUP opens the audit log again, for those who rotate it; without one it is left to the system."""
        audit = self.gateway.audit
        if audit is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, audit.reopen)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: no new requests, finish the accepted ones.

        What is interrupted may hold the lock of the log's queue: the loop says the line when it goes on.
        """
        if not self.gateway.draining:
            self.gateway.draining = True
            said = f"draining: {self.gateway.process.in_flight} requests to finish (Ctrl-C again to stop at once)"
            if self.gateway.hub.loop is not None:
                self.gateway.hub.loop.call_soon_threadsafe(log, said)
        super().handle_exit(sig, frame)
        if self.gateway.rpc is not None:
            self.gateway.rpc.hurry = self.force_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """gRPC is open as long as HTTP is: who sees one of them started can use both."""
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
    tls.context(config.tls)  # a mistake in it shows before anything slow happens
    _open_files(config.shield.max_connections)
    listener = listen(config)
    with listener:
        rpc.check(config)
        gateway = Gateway(config, bundle, Chat(models.load_tokenizer(bundle)))
        try:
            gateway.logs.start()
            gateway.process.start()
            gc.collect()
            gc.freeze()  # what is here now stays: without this, a full collection stops every stream for a tenth of a second
            _announce(gateway, listener)
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
    return _listen(config.host, config.port)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio switches Nagle's algorithm off only where it reads TCP there (40 ms a request).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"cannot listen: {os.strerror(error.errno) if error.errno else error}",
            where=f"{host}:{port}",
            hint="choose another port: serve.port=8001, or 0 for a free one",
        ) from None
    return listener


def _open_files(connections: int) -> None:
    """Let as many files be open as there may be connections; else accepting would fail, for everybody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        got = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(got, soft), hard))
        if got < wanted:
            log(f"warning: {got} open files allow fewer than {connections} connections: raise ulimit -n to {wanted}")


def _first_key(gateway: Gateway) -> str | None:
    """The very first key on a loopback address is made here, so that one command is enough to begin."""
    config = gateway.config
    if not config.auth or not config.loopback or any(key.active for key in gateway.ring.keys):
        return None
    key, text = keys.create("first", scopes=("chat", "batch", "metrics"))
    gateway.ring = KeyRing((*gateway.ring.keys, key))
    return text


def _announce(gateway: Gateway, listener: socket.socket) -> None:
    """Say what is served and how to ask it.

    A new key goes to standard output, as that of ``tuneloop keys create`` does: logs are shipped and kept.
    """
    host, port = listener.getsockname()[:2]
    address = f"{'https' if gateway.config.tls.key else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    known = gateway.context
    log(
        f"serving {known.model} ({known.precision}, version {known.version}) with {gateway.process.name} at {address}/v1"
    )
    if not gateway.config.loopback and not gateway.config.tls.key:
        log("warning: keys and words cross the network unencrypted: set serve.tls, or put a TLS proxy in front")
    if fresh := _first_key(gateway):
        print(f"API key (shown once): {fresh}", _example(address, fresh), sep="\n", flush=True)
        return
    if gateway.config.auth and not any(key.active for key in gateway.ring.keys):
        log("there is no API key yet: tuneloop keys create NAME")
    log(_example(address, "$KEY" if gateway.config.auth else "none"))


def _example(address: str, key: str) -> str:
    body = '{"messages":[{"role":"user","content":"Hello"}]}'
    return (
        f"try: curl {address}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
