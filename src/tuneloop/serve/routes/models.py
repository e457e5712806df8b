"""``GET /v1/models``: what is served."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import JSONResponse

from tuneloop.serve.api_error import ApiError
from tuneloop.serve.gateway import Gateway


def add(app: FastAPI, gateway: Gateway) -> None:
    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse(listed(gateway))

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        if name != gateway.model:
            raise ApiError(404, f"there is no model {name!r} here", param="model", code="model_not_found")
        return JSONResponse(_model(gateway))


def listed(gateway: Gateway) -> dict[str, object]:
    """The body of the list."""
    return {"object": "list", "data": [_model(gateway)]}


def _model(gateway: Gateway) -> dict[str, object]:
    known = gateway.context
    return {
        "id": gateway.model,
        "object": "model",
        "created": gateway.created_s,
        "owned_by": "tuneloop",
        "version": known.version,
        "precision": known.precision,
        "arm": known.arm,
        "max_model_len": gateway.process.capabilities.max_context_tokens,
    }
