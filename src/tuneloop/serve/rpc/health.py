"""grpc.health.v1: SERVING exactly while ``/readyz`` says 200."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2

from tuneloop.serve.gateway import Gateway

POLL_S = 0.1
"""How soon those who watch hear of a change; those who check always get the truth of the moment."""
_STATUS = health_pb2.HealthCheckResponse


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """The standard service, for the whole server (``""``) and for the services it has.

    Args:
        gateway: Is ready or not.
        services: Full names.
    """

    def __init__(self, gateway: Gateway, services: tuple[str, ...]) -> None:
        super().__init__()
        self._gateway, self._services = gateway, ("", *services)

    async def Check(self, request: Any, context: Any) -> Any:
        await self.refresh()
        return await super().Check(request, context)

    async def refresh(self) -> None:
        for name in self._services:
            await self.set(name, _STATUS.SERVING if self._gateway.ready else _STATUS.NOT_SERVING)

    async def run(self) -> None:
        """Tell those who watch; ends by cancellation."""
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_S)
