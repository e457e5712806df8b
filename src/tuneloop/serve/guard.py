"""The door in front of every route: request id, key, scope, size. What is not opened here stays shut."""

from __future__ import annotations

import traceback
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.progress import log
from tuneloop.serve import keys
from tuneloop.serve.access_log import refused
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.keys import Key

UPLOAD, FORM_BYTES = "/v1/files", 65_536
"""The route with larger bodies, and what the form around a file may take."""
PUBLIC = frozenset({"/healthz", "/readyz"})
SCOPES: tuple[tuple[str, keys.Scope], ...] = (("/v1/", "chat"), ("/generate", "chat"), ("/metrics", "metrics"))
"""Path prefix -> scope; every other path, also an unknown one, needs ``admin``."""


class Guard:
    """ASGI middleware.

    Args:
        app: What it guards.
        gateway: Keys, limits and counters.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        headers = {k: v for k, v in scope["headers"] if k in (b"authorization", b"content-length")}
        answer = self._labelled(send, state["request_id"])
        try:
            state["key"] = self._admit(scope["path"], headers.get(b"authorization", b""))
            self._check_length(headers.get(b"content-length", b""), self._limit(scope))
        except ApiError as error:
            refused(self._gateway, error)
            await error.response()(scope, receive, answer)
            return
        await self._run(scope, receive, answer)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app; what nobody foresaw is a 500 to the caller and a traceback in the log, under the same request id."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, self._limited(receive, self._limit(scope)), watched)
        except Exception as error:
            self._gateway.metrics.error("internal")
            log(f"request {scope['state']['request_id']} failed: " + "".join(traceback.format_exception(error)))
            if begun:
                raise  # the server closes the connection, so that half an answer is not taken for a whole one
            failed = ApiError(500, "an internal error; the log has it under this request id", code="server_error")
            await failed.response()(scope, receive, send)

    def _admit(self, path: str, authorization: bytes) -> Key:
        if path in PUBLIC or not self._gateway.config.auth:
            return keys.ANYBODY
        kind, _, text = authorization.decode("latin-1").partition(" ")
        key = self._gateway.ring.find(text.strip()) if kind.lower() == "bearer" else None
        if key is None:
            raise ApiError(
                401,
                "a valid API key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        needed: keys.Scope = next((s for prefix, s in SCOPES if path.startswith(prefix)), "admin")
        if not key.may(needed):
            raise ApiError(403, f"this key may not do that; it lacks the scope {needed}", code="missing_scope")
        return key

    def _limit(self, scope: Scope) -> int:
        """How many bytes the body may have; an upload has its own limit."""
        config = self._gateway.config
        return config.batches.max_file_bytes + FORM_BYTES if scope["path"] == UPLOAD else config.max_body_bytes

    def _check_length(self, header: bytes, limit: int) -> None:
        if header and (not header.isdigit() or int(header) > limit):
            raise self._too_large(limit)

    def _too_large(self, limit: int) -> ApiError:
        return ApiError(413, f"the body has more than {limit} bytes", code="body_too_large")

    def _limited(self, receive: Receive, limit: int) -> Receive:
        """A chunked body has no length in its head: count what comes."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise self._too_large(limit)
            return message

        return counted

    def _labelled(self, send: Send, request_id: str) -> Send:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        return labelled
