"""The ASGI application: routes, errors in OpenAI's shape, start and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from tuneloop.serve.access_log import AccessLog, refused
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.batches.worker import Worker
from tuneloop.serve.bodies import explain
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.guard import Guard
from tuneloop.serve.limits import HEADERS
from tuneloop.serve.missing import no_route
from tuneloop.serve.openapi import describe
from tuneloop.serve.routes import ROUTES, health
from tuneloop.serve.routes.doors import Doors

EXPOSED = ("x-request-id", "retry-after", *HEADERS)
"""Headers that a page of an allowed origin may read."""


def create_app(gateway: Gateway) -> ASGIApp:
    """Put a gateway together. Its engine is started by the caller and closed when the application ends.

    What stands before the routes is around FastAPI and not in it: so a request for tokens passes four layers in place
    of fifteen.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = asyncio.create_task(gateway.run())
        working = asyncio.create_task(worker.run())
        await asyncio.sleep(0)
        yield
        beside.cancel()
        await worker.stop(working)
        await gateway.close()

    app = FastAPI(title="Tuneloop", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.batches = worker = Worker(gateway)
    for route in ROUTES:
        route.add(app, gateway)
    _add_errors(app, gateway)
    describe(app)
    _leave_failures_to_the_guard(app)
    guarded: ASGIApp = Guard(Doors(app), gateway, app.routes)
    if origins := gateway.config.shield.cors_origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
        )
    return AccessLog(guarded, gateway)  # outermost: it sees what the guard refuses, too


def create_metrics_app(gateway: Gateway) -> ASGIApp:
    """What stands on the metrics' own port: health and metrics of the same gateway, and nothing else."""
    app = FastAPI(title="Tuneloop metrics", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    health.add(app, gateway)
    _add_errors(app, gateway)
    _leave_failures_to_the_guard(app)
    return AccessLog(Guard(app, gateway, app.routes, metrics_only=True), gateway)


def _leave_failures_to_the_guard(app: FastAPI) -> None:
    """Take off the layer that answers what nobody foresaw with a text of its own; the handlers must be known by now."""
    outermost = app.build_middleware_stack()
    assert isinstance(outermost, ServerErrorMiddleware)
    app.middleware_stack = outermost.app


def _add_errors(app: FastAPI, gateway: Gateway) -> None:
    @app.exception_handler(HTTPException)
    async def http_error(http: HttpRequest, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            known = error
        elif error.status_code == 404:
            known = no_route(app.routes, http.scope["path"])
        else:
            known = ApiError(error.status_code, str(error.detail), headers=error.headers)
        refused(gateway, known)
        return known.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(http: HttpRequest, error: RequestValidationError) -> JSONResponse:
        refused(gateway, explained := explain(error.errors(), error.body or dict(http.query_params), skip=1))
        return explained.response()
