"""The parts of a running gateway, put together."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from tuneloop.chat import Chat
from tuneloop.engines import EngineProcess
from tuneloop.errors import ResourceError
from tuneloop.every import Every
from tuneloop.progress import log
from tuneloop.serve import keys
from tuneloop.serve.audit import FSYNC_S, AuditLog, filter_hit
from tuneloop.serve.config import ServeConfig
from tuneloop.serve.filters.filters import Filters
from tuneloop.serve.hub import Hub
from tuneloop.serve.keys import KeyRing
from tuneloop.serve.limits import Limits
from tuneloop.serve.live import watch
from tuneloop.serve.logs import Logs
from tuneloop.serve.metrics import Metrics
from tuneloop.types import Context

if TYPE_CHECKING:
    from tuneloop.models import Bundle
    from tuneloop.serve.rpc.server import RpcServer

RESERVATION_SPARE_S = 60.0
"""A reservation outlives the longest request by this, in seconds, when nobody is left to settle it."""
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
        made = bundle.manifest.get("created")
        self.created_s = int(datetime.fromisoformat(made).timestamp() if made else time.time())
        """When the model was made, for /v1/models; a plain folder does not say, so when its serving began."""
        self.context = Context(model=self.model, version=bundle.version, arm=config.arm, precision=bundle.precision)
        self.metrics = Metrics(self.context)
        self.logs = Logs(config.observe, self.metrics.log_line_dropped)
        self.confidence = Every(config.observe.confidence_every_s)
        """When the probabilities of an answer's tokens are asked for though its client does not need them."""
        self.filters = Filters(config.filters, self._filter_hit)
        self.process = EngineProcess(config.engine, bundle, self._deliver)
        self.hub = Hub(self.process, self.metrics, config.max_queue)
        watch(self)
        self.cut = 0
        """Calls that the end of draining cut off."""
        self.rpc: RpcServer | None = None
        self._from_database = ring is None and config.auth
        self.limits = Limits(config.limits, config.timeout_s + RESERVATION_SPARE_S, count=self.metrics.error)
        self.audit = AuditLog(config.audit, self._lost_audit) if config.audit.path else None
        self.ring = ring or KeyRing(keys.list_keys() if self._from_database else ())

    @property
    def ready(self) -> bool:
        """Whether tokens can flow, and will go on flowing."""
        return self.status == "ready"

    @property
    def status(self) -> str:
        """The state of the engine, ``draining``, or ``stalled``: it holds requests and has made no token for too long."""
        if self.draining:
            return "draining"
        if self.process.ready and self.process.silent_s > self.config.observe.unready_after_s:
            return "stalled"
        return self.process.state.value

    @property
    def draining(self) -> bool:
        """No new requests are accepted."""
        return self.hub.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self.hub.draining = value

    def _filter_hit(self, name: str, side: str, action: str, count: int = 1) -> None:
        self.metrics.filter_hit(name, side, action, count)
        if count:
            filter_hit(f"{name} {side} {action}")

    def _deliver(self, events: list) -> None:  # type: ignore[type-arg]
        self.hub.deliver(events)

    def _lost_audit(self, lines: int) -> None:
        for _ in range(lines):
            self.metrics.error("audit_line_lost")

    async def run(self) -> None:
        """What goes on beside the requests, on the loop that the engine's tokens come on from now on; ends by
        cancellation."""
        self.hub.loop = asyncio.get_running_loop()
        self.process.read_on(self.hub.loop)
        await asyncio.gather(self._follow_keys(), self._sync_audit())

    async def _follow_keys(self) -> None:
        while self._from_database:
            await asyncio.sleep(KEYS_REFRESH_S)
            await self._refresh_keys()

    async def _sync_audit(self) -> None:
        while self.audit is not None and self.config.audit.fsync == "second":
            await asyncio.sleep(FSYNC_S)
            await asyncio.to_thread(self.audit.sync)

    async def _refresh_keys(self) -> None:
        try:
            self.ring = KeyRing(await asyncio.to_thread(keys.list_keys))
        except ResourceError as error:  # a locked database must not lock everybody out
            log(f"keys: {error.what}; going on with those known")

    async def close(self) -> None:
        """End the gRPC calls, then stop the engine without blocking the loop."""
        if self.rpc is not None:
            await self.rpc.stop()
        with suppress(asyncio.CancelledError):
            await asyncio.to_thread(self.process.close)
        await self.limits.close()
        if self.audit is not None:
            self.audit.close()
