"""The gateway over gRPC (``tuneloop.proto``), in the process and on the event loop of HTTP."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from tuneloop.errors import ResourceError, need

if TYPE_CHECKING:
    from tuneloop.serve.config import ServeConfig
    from tuneloop.serve.gateway import Gateway
    from tuneloop.serve.rpc.server import RpcServer

NEEDED = ("grpc", "grpc_health.v1.health", "grpc_reflection.v1alpha.reflection", "grpc_status.rpc_status")


def check(config: ServeConfig) -> None:
    """Find out before anything slow happens whether ``start`` will work.

    Raises:
        MissingExtraError: grpcio is not installed.
        ResourceError: The port is taken.
    """
    if config.grpc_port is None:
        return
    for module in NEEDED:
        need(module, "grpc")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.grpc_port))
        except OSError as error:
            raise cannot_listen(config, os.strerror(error.errno) if error.errno else str(error)) from None


async def start(gateway: Gateway) -> RpcServer | None:
    """Open the port of ``gateway.config``; None where there is none.

    Raises:
        MissingExtraError: grpcio is not installed.
        ResourceError: The port is taken, or a TLS file cannot be read.
    """
    if gateway.config.grpc_port is None:
        return None
    for module in NEEDED:
        need(module, "grpc")
    from tuneloop.serve.rpc.server import RpcServer

    server = RpcServer(gateway)
    await server.start()
    return server


def cannot_listen(config: ServeConfig, why: str) -> ResourceError:
    return ResourceError(
        f"gRPC cannot listen: {why}",
        where=f"{config.host}:{config.grpc_port}",
        hint="choose another port: serve.grpc_port=50051, or 0 for a free one",
    )
