"""The ASGI application: routes, errors in OpenAI's shape, start and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from tuneloop.errors import TuneloopError
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.completions import complete
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.guard import Guard
from tuneloop.serve.schema import ChatRequest


def create_app(gateway: Gateway) -> FastAPI:
    """Put the routes of a gateway together. Its engine is started by the caller and closed when the app ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = asyncio.create_task(gateway.run())
        await asyncio.sleep(0)
        yield
        beside.cancel()
        await gateway.close()

    app = FastAPI(title="Tuneloop", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_routes(app, gateway)
    _add_errors(app, gateway)
    app.add_middleware(Guard, gateway=gateway)
    return app


def _add_routes(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(http: HttpRequest, body: ChatRequest) -> Response:
        return await complete(gateway, http, body)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model(gateway)]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        if name != gateway.model:
            raise ApiError(404, f"there is no model {name!r} here", param="model", code="model_not_found")
        return JSONResponse(_model(gateway))

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """The process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Tokens can flow."""
        status = "draining" if gateway.draining else gateway.process.state.value
        return JSONResponse({"status": status}, 200 if gateway.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        gateway.hub.gauge()
        return Response(gateway.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(gateway: Gateway) -> dict[str, object]:
    known = gateway.context
    return {
        "id": gateway.model,
        "object": "model",
        "created": 0,
        "owned_by": "tuneloop",
        "version": known.version,
        "precision": known.precision,
        "arm": known.arm,
        "max_model_len": gateway.process.capabilities.max_context_tokens,
    }


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
