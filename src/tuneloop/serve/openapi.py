"""The OpenAPI document at ``/openapi.json``: FastAPI's, with what it cannot see: keys, our errors, streams."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from tuneloop import __version__

ERRORS = {
    "400": "The request cannot be obeyed; the error says why.",
    "401": "There is no valid key.",
    "403": "The key lacks the scope.",
    "404": "There is no such thing.",
    "405": "There is no such method.",
    "408": "The request did not come in time.",
    "413": "The body is too large.",
    "414": "The URL is too long.",
    "415": "The body is not application/json, or it is compressed.",
    "429": "The key has used its limit, or the queue is full; Retry-After says when to come again.",
    "431": "There are too many headers.",
    "500": "An internal error, or the engine failed.",
    "503": "The service is not ready.",
    "504": "The answer was not complete in time.",
}
PUBLIC = ("/healthz", "/readyz")
_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": _TEXT, "code": _TEXT},
        }
    },
}


def describe(app: FastAPI) -> None:
    """Give an app its document. It is made when first asked for, so that every route is in it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=__version__, routes=app.routes)
            app.openapi_schema = _completed(made)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    parts = document.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # invalid fields are a 400 in OpenAI's shape
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            if path in PUBLIC:
                operation["responses"] |= {"503": {"description": "Not now."}} if path == "/readyz" else {}
                continue
            operation["security"] = [{"key": []}]
            content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            for status, said in ERRORS.items():
                operation["responses"].setdefault(status, {"description": said, "content": content})
            if _can_stream(operation, schemas):
                operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return document


def _can_stream(operation: dict[str, Any], schemas: dict[str, Any]) -> bool:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return "stream" in schemas.get(body.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
