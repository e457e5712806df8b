"""Errors of the gateway in gRPC's words: a status code, and google.rpc details for programs."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from tuneloop.serve.api_error import ApiError

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""HTTP status -> gRPC code, as google.rpc.Code pairs them; every other one is INTERNAL."""
DOMAIN = "tuneloop"


async def fail(context: Any, error: ApiError, request_id: str) -> NoReturn:
    """End a call with an error.

    The trailing metadata has the request id, the words of the HTTP error, google.rpc.Status with ErrorInfo, and where
    the HTTP answer would have Retry-After also RetryInfo and ``grpc-retry-pushback-ms``, which gRPC's own retries obey.
    """
    code = CODES.get(error.status_code, grpc.StatusCode.INTERNAL)
    await context.abort(code, error.message, tuple(_metadata(error, request_id, code.value[0])))
    raise AssertionError("abort always raises")


def _metadata(error: ApiError, request_id: str, number: int) -> list[tuple[str, str | bytes]]:
    status = status_pb2.Status(code=number, message=error.message)
    words = {"request_id": request_id} | ({"param": error.param} if error.param else {})
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.code or "", domain=DOMAIN, metadata=words))
    out: list[tuple[str, str | bytes]] = [("x-request-id", request_id)]
    if error.code:
        out.append(("x-error-code", error.code))
    if error.param and error.param.isascii() and error.param.isprintable():
        out.append(("x-error-param", error.param))
    if seconds := (error.headers or {}).get("Retry-After"):
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromSeconds(int(seconds))
        status.details.add().Pack(info)
        out.append(("grpc-retry-pushback-ms", str(1000 * int(seconds))))
    out.append(("grpc-status-details-bin", status.SerializeToString()))
    return out
