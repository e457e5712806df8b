"""The methods. Each call is read and answered as the HTTP route of the same name does it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message

from tuneloop.errors import TuneloopError
from tuneloop.progress import log
from tuneloop.serve import access_log, audit, bodies
from tuneloop.serve.account import check_audit
from tuneloop.serve.answering import Answering
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import Caller
from tuneloop.serve.checks import check_json
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.routes import models
from tuneloop.serve.rpc import tuneloop_pb2 as pb
from tuneloop.serve.rpc import tuneloop_pb2_grpc
from tuneloop.serve.rpc.convert import AS_JSON, to_body, to_message
from tuneloop.serve.rpc.door import CALL
from tuneloop.serve.rpc.failures import fail

NAME = pb.DESCRIPTOR.services_by_name["Tuneloop"].full_name
CHAT, GENERATE = "/v1/chat/completions", "/generate"
Work = Callable[[], Awaitable[Message | None]]


class Service(tuneloop_pb2_grpc.TuneloopServicer):
    """See ``tuneloop.proto``.

    A client that leaves, or whose deadline has passed, cancels the method's task, which frees the engine's slots.

    Args:
        gateway: Answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.running = 0
        """Calls that have not ended."""

    async def Chat(self, request: Message, context: Any) -> Message | None:
        return await self._run(context, request, lambda: self._whole(CHAT, request, pb.ChatResponse))

    async def ChatStream(self, request: Message, context: Any) -> None:
        await self._run(context, request, lambda: self._stream(CHAT, request, pb.ChatChunk, context))

    async def Generate(self, request: Message, context: Any) -> Message | None:
        return await self._run(context, request, lambda: self._whole(GENERATE, request, pb.GenerateResponse))

    async def GenerateStream(self, request: Message, context: Any) -> None:
        await self._run(context, request, lambda: self._stream(GENERATE, request, pb.GenerateResponse, context))

    async def ListModels(self, request: Message, context: Any) -> Message | None:
        async def listed() -> Message:
            return to_message(pb.ListModelsResponse, models.listed(self._gateway))

        return await self._run(context, request, listed)

    async def _whole(self, door: str, request: Message, kind: type[Message]) -> Message:
        call, answering = await self._begin(door, self._body(request))
        try:
            return to_message(kind, call.shape.whole(answering, await answering.collect()))
        finally:
            answering.close()

    async def _stream(self, door: str, request: Message, kind: type[Message], context: Any) -> None:
        call, answering = await self._begin(door, self._body(request) | {"stream": True})
        try:
            async with aclosing(call.shape.stream(answering)) as told:
                async for body in told:
                    await context.write(to_message(kind, body))
        finally:
            answering.close()

    def _body(self, request: Message) -> dict[str, Any]:
        """The body that a message stands for; the JSON in it is bounded as a body of HTTP is."""
        for field, value in request.ListFields():
            if field.name.endswith(AS_JSON):
                try:
                    check_json(self._gateway.config.shield, value.encode())
                except ApiError as error:
                    name = field.name.removesuffix(AS_JSON)
                    raise ApiError(400, f"{field.name}: {error.message}", param=name, code=error.code) from None
        return to_body(request)

    async def _begin(self, door: str, values: dict[str, Any]) -> tuple[bodies.Call, Answering]:
        call, known = bodies.read(self._gateway, door, values), CALL.get()
        parent = known.trace.traceparent if known.trace else ""
        who = Caller(f"{call.kind}-{known.request_id}", known.key, call.body.user or "", known.conversation, parent)
        return call, await Answering.begin(self._gateway, call.asked, who)

    async def _run(self, context: Any, request: Message | ApiError, work: Work) -> Message | None:
        """Do the work; counted, timed and written down as HTTP requests are. ``request`` may be why it was not read."""
        began, record, known, gateway = time.monotonic(), access_log.begin_record(), CALL.get(), self._gateway
        entry = audit.Entry(known.request_id, known.key.id, f"GRPC {known.method}")
        audit.current.set(entry)
        status = 499  # cancelled: by the client, its deadline, or the end of draining
        self.running += 1
        try:
            done, failed = await self._told(context, request, work, entry)
            status = failed.status_code if failed else 200
            return await fail(context, failed, known.request_id) if failed else done
        finally:
            self.running -= 1
            gateway.metrics.request(known.method, status)
            entry.status = status
            if gateway.audit is not None:
                gateway.audit.write(entry.line())
            if gateway.logs.active:
                access_log.write_request(
                    gateway,
                    record,
                    request_id=known.request_id,
                    method="GRPC",
                    route=known.method,
                    status=status,
                    seconds=time.monotonic() - began,
                    key=known.key,
                    trace=known.trace,
                )

    async def _told(
        self, context: Any, request: Message | ApiError, work: Work, entry: audit.Entry
    ) -> tuple[Message | None, ApiError | None]:
        """What the work gives, or why it fails: what nobody foresaw is INTERNAL and a traceback in the log."""
        request_id, metrics = entry.request_id, self._gateway.metrics
        try:
            await context.send_initial_metadata((("x-request-id", request_id),))
            check_audit(self._gateway)
            await self._gateway.limits.count(CALL.get().key, entry.headers)
            if isinstance(request, ApiError):
                raise request
            return await work(), None
        except ApiError as error:
            access_log.refused(self._gateway, error)
            return None, error
        except TuneloopError as error:
            metrics.error("internal")
            return None, ApiError(500, error.what, code="server_error")
        except Exception as error:
            metrics.error("internal")
            log(f"request {request_id} failed: " + "".join(traceback.format_exception(error)))
            what = "an internal error; the log has it under this request id"
            return None, ApiError(500, what, code="server_error")
