"""The door in front of every route: request id, key, scope, limits, size, time. What is not opened here stays shut."""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.errors import TuneloopError
from tuneloop.progress import log
from tuneloop.serve import audit, keys
from tuneloop.serve.access_log import refused
from tuneloop.serve.account import check_audit
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.audit import Entry
from tuneloop.serve.checks import check_head, check_json
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.keys import Key
from tuneloop.serve.missing import has_route, no_route

FORM_BYTES = 65_536
"""What the form around a file may take."""
PUBLIC = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"
UNFORESEEN = "an internal error; the log has it under this request id"
UPLOADS = "/v1/files"
"""Bodies that are files: larger, slower, and not read into memory here."""
SCOPES: tuple[tuple[str, keys.Scope], ...] = (
    ("/v1/batches", "batch"),
    (UPLOADS, "batch"),
    ("/v1/", "chat"),
    ("/generate", "chat"),
    (METRICS, "metrics"),
)
"""Path prefix -> scope, the first that fits; every other path needs ``admin``."""


class Guard:
    """ASGI middleware.

    Args:
        app: What it guards.
        gateway: Keys, limits and counters.
        routes: Those of the app. A key that may not open a path hears whether there is such a path.
        metrics_only: It stands on the port of the metrics: there is nothing else, and on loopback no key is asked for.
    """

    def __init__(
        self, app: ASGIApp, gateway: Gateway, routes: Sequence[BaseRoute], *, metrics_only: bool = False
    ) -> None:
        self._app, self._gateway, self._routes, self._metrics_only = app, gateway, routes, metrics_only
        self._shield = gateway.config.shield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        entry = Entry(uuid.uuid4().hex)
        scope.setdefault("state", {})["request_id"] = entry.request_id
        audit.current.set(entry)
        answer = self._labelled(send, entry)
        try:
            receive = await self._checked(scope, receive, entry)
            await self._run(scope, receive, answer)
        except ApiError as error:
            refused(self._gateway, error)
            await error.response()(scope, receive, answer)
        except _Left:
            entry.status = 499
        finally:
            self._write(scope, entry)

    async def _checked(self, scope: Scope, receive: Receive, entry: Entry) -> Receive:
        """The request's body, or a way to read it, after everything that can be said against the request."""
        check_head(self._shield, scope)
        path: str = scope["path"]
        headers = dict(scope["headers"])
        key = self._admit(path, headers.get(b"authorization", b""))
        scope["state"]["key"], entry.key_id = key, key.id
        if path not in PUBLIC and path != METRICS:
            check_audit(self._gateway)
            await self._gateway.limits.count(key, entry.headers)
        upload = path.startswith(UPLOADS)
        config = self._gateway.config
        most = config.batches.max_file_bytes + FORM_BYTES if upload else config.max_body_bytes
        length, coding = headers.get(b"content-length", b""), headers.get(b"content-encoding")
        if length and (not length.isdigit() or int(length) > most):
            raise _too_large(most)
        if coding and coding.lower() != b"identity":
            raise ApiError(
                415,
                "compressed bodies are not accepted: send it without Content-Encoding",
                code="unsupported_content_encoding",
                headers={"Accept-Encoding": "identity"},
            )
        if upload:
            return self._limited(receive, most)
        body = await self._body(receive, most)
        check_json(self._shield, body)
        return _replayed(body, receive)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app; what fails inside is a 500 to the caller, in its own words where it has some. What nobody foresaw has a
        traceback in the log, under the same request id."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except _Left:
            raise
        except ClientDisconnect as error:  # in the middle of a file that it sent
            raise _Left from error
        except Exception as error:
            if isinstance(error, ApiError) and not begun:
                raise
            self._gateway.metrics.error("internal")
            said = error.what if isinstance(error, TuneloopError) else UNFORESEEN
            if begun or said is UNFORESEEN:
                log(f"request {scope['state']['request_id']} failed: " + "".join(traceback.format_exception(error)))
            if begun:  # the server closes the connection, so that half an answer is not taken for a whole one
                raise RuntimeError("an answer that had begun broke off") from error
            await ApiError(500, said, code="server_error").response()(scope, receive, send)

    def _admit(self, path: str, authorization: bytes) -> Key:
        config = self._gateway.config
        if self._metrics_only and path not in PUBLIC and path != METRICS:
            raise ApiError(404, "there are only metrics on this port", code="not_found")
        if path in PUBLIC or not config.auth or (self._metrics_only and config.metrics_loopback):
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
            if not has_route(self._routes, path):
                raise no_route(self._routes, path)
            raise ApiError(403, f"this key may not do that; it lacks the scope {needed}", code="missing_scope")
        if path == METRICS and config.metrics_port is not None and not self._metrics_only:
            raise ApiError(404, "metrics have a port of their own", code="not_found")
        return key

    async def _body(self, receive: Receive, most: int) -> bytes:
        """A body that is read whole, within its time.

        Raises:
            ApiError: 408 or 413.
        """
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._shield.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > most:
                        raise _too_large(most)
        except TimeoutError:
            raise self._too_slow() from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _limited(self, receive: Receive, most: int) -> Receive:
        """A file's body, counted while the route reads it; a chunked one has no length in its head."""
        until = asyncio.get_running_loop().time() + self._shield.upload_timeout_s
        seen, more = 0, True

        async def counted() -> Message:
            nonlocal seen, more
            try:
                async with asyncio.timeout_at(until if more else None):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            seen += len(message.get("body", b""))
            more = message.get("more_body", False)
            if seen > most:
                raise _too_large(most)
            return message

        return counted

    def _too_slow(self) -> ApiError:
        self._gateway.metrics.closed("slow_body")
        said = "the body did not come in time"
        return ApiError(408, said, code="request_timeout", headers={"Connection": "close"})

    def _labelled(self, send: Send, entry: Entry) -> Send:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                more = {"x-request-id": entry.request_id} | entry.headers
                known = {name.lower() for name, _ in message.get("headers", ())}
                added = [(k.encode(), v.encode()) for k, v in more.items() if k.encode() not in known]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        return labelled

    def _write(self, scope: Scope, entry: Entry) -> None:
        """The line of the audit log. Those who only ask whether the service lives are not in it."""
        log_ = self._gateway.audit
        if log_ is None or (scope["path"] in PUBLIC and entry.status < 400):
            return
        route: Any = scope.get("route")  # its pattern; a path that matches none may hold anything
        entry.route = f"{scope['method']} {getattr(route, 'path', '(none)')}"
        log_.write(entry.line())


class _Left(Exception):
    """The client has gone before its request was complete."""


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_large")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, then whatever the connection says."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
