"""Every HTTP request: counted, timed, and written down as one line. Also what was refused at the door."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.serve.api_error import ApiError
from tuneloop.serve.logs import begin_record as begin_record
from tuneloop.serve.logs import note
from tuneloop.serve.metrics import CLIENT_LEFT
from tuneloop.serve.trace import Trace

if TYPE_CHECKING:
    from tuneloop.serve.answering import Answering
    from tuneloop.serve.gateway import Gateway
    from tuneloop.serve.keys import Key

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines; only a refused one is worth a line."""
NO_ROUTE = "none"
"""The label of what reached no route: an unknown path, or a refusal at the door. Never the path that was asked for."""


class AccessLog:
    """ASGI middleware, the outermost.

    Args:
        app: The rest.
        gateway: Its metrics and logs.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        state: dict[str, Any] = scope.setdefault("state", {})
        state["trace"] = next((Trace.of(v.decode("latin-1")) for k, v in scope["headers"] if k == b"traceparent"), None)
        record = begin_record()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._gateway.metrics.request(_route(scope), status)
            await send(message)

        try:
            await self._app(scope, receive, watched)
            if not status:  # nobody is there to be answered; counted all the same, so that sums are right
                status = CLIENT_LEFT
                self._gateway.metrics.request(_route(scope), status)
        except asyncio.CancelledError:  # only the server does this, when the time for draining is over
            self._gateway.cut += 1
            raise
        finally:
            self._write(scope, status, time.monotonic() - began, record)

    def _write(self, scope: Scope, status: int, seconds: float, record: dict[str, Any]) -> None:
        state, route = scope["state"], _route(scope)
        if self._gateway.logs.active and (route not in PROBES or status in (401, 403)):
            write_request(
                self._gateway,
                record,
                request_id=state.get("request_id", ""),
                method=scope["method"],
                route=route,
                status=status,
                seconds=seconds,
                key=state.get("key"),
                trace=state["trace"],
            )


def write_request(
    gateway: Gateway,
    record: dict[str, Any],
    *,
    request_id: str,
    method: str,
    route: str,
    status: int,
    seconds: float,
    key: Key | None,
    trace: Trace | None,
) -> None:
    """The line of one request, for every door; ``record`` is what ``begin_record`` gave and the answering filled."""
    known = gateway.context
    gateway.logs.write(
        "request",
        request_id=request_id,
        method=method,
        route=route,
        status=status,
        duration_s=round(seconds, 6),
        key=key.id if key else None,
        model=known.model,
        version=known.version,
        arm=known.arm,
        precision=known.precision,
        **({"trace_id": trace.trace_id, "span_id": trace.span_id, "parent_id": trace.parent_id} if trace else {}),
        **record,
    )


def refused(gateway: Gateway, error: ApiError) -> None:
    """Count a refusal and put its reason into the request's line."""
    gateway.metrics.refused(error.status_code, error.code)
    note(error=error.code or str(error.status_code))


def note_answers(answering: Answering) -> None:
    """Put what is known about the answers of a call into its line: numbers, and texts only where they are asked for."""
    tallies = list(answering.tallies)
    queued = [t.queue_s for t in tallies if t.queue_s is not None]
    first = [t.first_token_s for t in tallies if t.first_token_s is not None]
    usage = answering.usage
    note(
        id=answering.caller.request_id,
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        finish=answering.finishes,
        queue_s=round(max(queued), 6) if queued else None,
        first_token_s=round(min(first), 6) if first else None,
    )
    if answering.gateway.config.observe.log_bodies:
        note(prompts=[p.text for p in answering.prompts], answers=[a.content for a in answering.answers])


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", NO_ROUTE)
