"""The gRPC server: port, TLS, limits, the services, and an end that lets every accepted call finish."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tuneloop.errors import ResourceError
from tuneloop.progress import log
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.rpc import cannot_listen
from tuneloop.serve.rpc.config import GrpcConfig
from tuneloop.serve.rpc.door import Door
from tuneloop.serve.rpc.health import Health
from tuneloop.serve.rpc.service import NAME, Service
from tuneloop.serve.rpc.tuneloop_pb2_grpc import add_TuneloopServicer_to_server

SETTLE_S = 0.05
"""Between refusing new calls and counting those that run: what was accepted in that moment has begun by then."""
KEEPALIVE_MS = 30_000
"""A client that answers no ping for this long is gone, and its slots are free."""


class RpcServer:
    """Made by ``rpc.start``.

    Args:
        gateway: Answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self.port = gateway, 0
        self._service, self._health = Service(gateway), Health(gateway, (NAME,))
        limit = gateway.config.max_body_bytes
        self._server = grpc.aio.server(
            interceptors=(Door(gateway),),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limit),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
            ),
        )
        add_TuneloopServicer_to_server(self._service, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._watching: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.hurry = False
        """Stop without waiting for calls; may be set from a signal handler."""

    async def start(self) -> None:
        """Listen.

        Raises:
            ResourceError: The port is taken, or a TLS file cannot be read.
        """
        config = self._gateway.config
        address = f"{f'[{config.host}]' if ':' in config.host else config.host}:{config.grpc_port}"
        credentials = _credentials(config.grpc)
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise cannot_listen(config, "the port is taken, or the address is not this machine's") from None
        await self._health.refresh()
        await self._server.start()
        self._watching = asyncio.create_task(self._health.run())
        log(f"gRPC at {address.rpartition(':')[0]}:{self.port}{'' if credentials is None else ' (TLS)'}")

    async def stop(self) -> None:
        """Refuse new calls, let those that run finish (at most ``drain_timeout_s``), close. Can be called twice."""
        self._stopping = self._stopping or asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        closing = asyncio.ensure_future(self._server.stop(self._gateway.config.drain_timeout_s))
        await asyncio.sleep(SETTLE_S)
        while self._service.running and not closing.done() and not self.hurry:
            await asyncio.sleep(SETTLE_S)
        await self._server.stop(0)  # ends those who only watch health or reflect, who would wait for ever
        await closing


def _credentials(config: GrpcConfig) -> Any:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    authorities = None if config.tls_client_ca is None else _pem(config.tls_client_ca)
    pairs = [(_pem(config.tls_key), _pem(config.tls_certificate))]
    return grpc.ssl_server_credentials(pairs, authorities, require_client_auth=authorities is not None)


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResourceError(
            f"cannot be read: {error.strerror or error}", where=str(path), hint="serve.grpc.tls_certificate, tls_key"
        ) from None
