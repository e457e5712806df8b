"""The ASGI application: routes, errors in OpenAI's shape, start and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from tuneloop.errors import TuneloopError
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.guard import Guard
from tuneloop.serve.openapi import describe
from tuneloop.serve.routes import ROUTES, health

EXPOSED = (
    "x-request-id",
    "retry-after",
    *(f"x-ratelimit-{a}-{b}" for a in ("limit", "remaining", "reset") for b in ("requests", "tokens")),
)
"""Headers that a page of an allowed origin may read."""


def create_app(gateway: Gateway) -> FastAPI:
    """Put the routes of a gateway together. Its engine is started by the caller and closed when the app ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = asyncio.create_task(gateway.run())
        await asyncio.sleep(0)
        yield
        beside.cancel()
        await gateway.close()

    app = FastAPI(title="Tuneloop", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    for route in ROUTES:
        route.add(app, gateway)
    _add_errors(app, gateway)
    describe(app)
    app.add_middleware(Guard, gateway=gateway)
    if origins := gateway.config.shield.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
        )
    return app


def create_metrics_app(gateway: Gateway) -> FastAPI:
    """What stands on the metrics' own port: health and metrics of the same gateway, and nothing else."""
    app = FastAPI(title="Tuneloop metrics", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    health.add(app, gateway)
    _add_errors(app, gateway)
    app.add_middleware(Guard, gateway=gateway, metrics_only=True)
    return app


def _add_errors(app: FastAPI, gateway: Gateway) -> None:
    @app.exception_handler(HTTPException)
    async def http_error(_: HttpRequest, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        return _explain(error).response()

    @app.exception_handler(TuneloopError)
    async def expected(_: HttpRequest, error: TuneloopError) -> JSONResponse:
        gateway.metrics.error("internal")
        return ApiError(500, error.what, code="server_error").response()


def _explain(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    path = ".".join(map(str, first["loc"][1:]))
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown parameter {path!r}", param=path, code="unknown_parameter")
    if first["type"] == "missing" and not path:
        return ApiError(400, "the body is missing", code="invalid_json")
    return ApiError(400, f"{path}: {first['msg']}", param=path or None, code="invalid_value")
