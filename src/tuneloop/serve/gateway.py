"""The parts of a running gateway, put together."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from tuneloop.chat import Chat
from tuneloop.engines import EngineProcess
from tuneloop.errors import ResourceError
from tuneloop.progress import log
from tuneloop.serve import keys
from tuneloop.serve.config import ServeConfig
from tuneloop.serve.filters.filters import Filters
from tuneloop.serve.hub import Hub
from tuneloop.serve.keys import KeyRing
from tuneloop.serve.metrics import Metrics
from tuneloop.types import Context

if TYPE_CHECKING:
    from tuneloop.models import Bundle

KEYS_REFRESH_S = 5.0
"""How soon a created or revoked key is noticed."""


class Gateway:
    """Everything that the routes need.

    Args:
        config: Its configuration.
        bundle: The model that is served.
        chat: The bundle's tokenizer and template.
        ring: The keys; None reads them from the database and keeps them up to date.
    """

    def __init__(self, config: ServeConfig, bundle: Bundle, chat: Chat, ring: KeyRing | None = None) -> None:
        self.config, self.bundle, self.chat = config, bundle, chat
        self.model = config.model_name or bundle.name
        self.context = Context(model=self.model, version=bundle.version, arm=config.arm, precision=bundle.precision)
        self.metrics = Metrics(self.context)
        self.filters = Filters(config.filters, self.metrics.filter_hit)
        self.process = EngineProcess(config.engine, bundle, self._deliver)
        self.hub = Hub(self.process, self.metrics, config.max_queue)
        self.draining = False
        self._from_database = ring is None and config.auth
        self.ring = ring or KeyRing(keys.list_keys() if self._from_database else ())

    @property
    def ready(self) -> bool:
        """Whether tokens can flow, and will go on flowing."""
        return self.process.ready and not self.draining

    def _deliver(self, events: list) -> None:  # type: ignore[type-arg]
        self.hub.deliver(events)

    async def run(self) -> None:
        """What goes on beside the requests; ends by cancellation."""
        self.hub.loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(KEYS_REFRESH_S)
            if self._from_database:
                await self._refresh_keys()

    async def _refresh_keys(self) -> None:
        try:
            self.ring = KeyRing(await asyncio.to_thread(keys.list_keys))
        except ResourceError as error:  # a locked database must not lock everybody out
            log(f"keys: {error.what}; going on with those known")

    async def close(self) -> None:
        """Stop the engine without blocking the loop."""
        with suppress(asyncio.CancelledError):
            await asyncio.to_thread(self.process.close)
