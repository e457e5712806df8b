"""The door in front of every gRPC method: request id, key, scope. What is not opened here stays shut."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from tuneloop.serve import access_log, keys
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import CONVERSATION_HEADER
from tuneloop.serve.audit import Entry
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.keys import Key
from tuneloop.serve.rpc.failures import fail
from tuneloop.serve.trace import Trace

NO_METHOD = "GRPC (none)"
"""What the audit log has of a refused call, whose method may be anything."""
PUBLIC = "/grpc.health.v1.Health/"
OURS = "/tuneloop.v1.Tuneloop/"
OPEN_TO: tuple[tuple[str, keys.Scope], ...] = (
    (OURS, "chat"),
    ("/grpc.reflection.v1alpha.ServerReflection/", "chat"),
)
"""Method prefix -> scope; every other method, also an unknown one, needs ``admin``."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the call that runs."""

    request_id: str
    key: Key
    method: str
    conversation: str = ""
    trace: Trace | None = None


CALL: ContextVar[Known] = ContextVar("tuneloop_grpc_call")


class Door(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Asks for a key before a message is read.

    Args:
        gateway: Has the keys and the counters.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Set ``CALL``, or answer with the refusal."""
        request_id = uuid.uuid4().hex
        metadata = dict(details.invocation_metadata or ())
        try:
            key = self._admit(details.method, _text(metadata.get("authorization")))
        except ApiError as error:
            refused = error
            self._gateway.metrics.request("grpc", error.status_code)
            access_log.refused(self._gateway, error)
            if self._gateway.audit is not None:
                entry = Entry(request_id, route=NO_METHOD, status=error.status_code)
                self._gateway.audit.write(entry.line())

            async def refuse(_: Any, context: Any) -> None:
                await fail(context, refused, request_id)

            return grpc.stream_stream_rpc_method_handler(refuse)
        trace, conversation = Trace.of(_text(metadata.get("traceparent"))), _text(metadata.get(CONVERSATION_HEADER))
        CALL.set(Known(request_id, key, details.method, conversation[:256], trace))
        handler = await continuation(details)
        if handler is None or not details.method.startswith(OURS):
            return handler
        return handler._replace(request_deserializer=careful(handler.request_deserializer))

    def _admit(self, method: str, authorization: str) -> Key:
        if method.startswith(PUBLIC) or not self._gateway.config.auth:
            return keys.ANYBODY
        kind, _, text = authorization.partition(" ")
        key = self._gateway.ring.find(text.strip()) if kind.lower() == "bearer" else None
        if key is None:
            raise ApiError(401, "a valid API key is needed: authorization: Bearer KEY", code="invalid_api_key")
        needed: keys.Scope = next((scope for prefix, scope in OPEN_TO if method.startswith(prefix)), "admin")
        if not key.may(needed):
            raise ApiError(403, f"this key may not do that; it lacks the scope {needed}", code="missing_scope")
        return key


def careful(parse: Callable[[bytes], Message]) -> Callable[[bytes], Message | ApiError]:
    """Parse, or say what the client did wrong: gRPC itself would call it UNKNOWN and write a traceback."""

    def parsed(data: bytes) -> Message | ApiError:
        try:
            return parse(data)
        except DecodeError:
            return ApiError(400, "the bytes are no message of this method", code="invalid_message")

    return parsed


def _text(value: str | bytes | None) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value or ""
