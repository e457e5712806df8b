"""``/v1/batches``: many requests in one file, answered when the engine has room. A key sees its own."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Query
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.serve.batches.ledger import OPEN, BatchRow, new_id
from tuneloop.serve.chat_messages import Strict
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.routes.storage import ask, page
from tuneloop.serve.schema import Metadata

if TYPE_CHECKING:
    from tuneloop.serve.batches.worker import Worker

MAX_PAGE = 100
UNITS_S = {"m": 60, "h": 3600}


class BatchRequest(Strict):
    """Body of ``POST /v1/batches``."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    completion_window: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}[mh]$")]
    """OpenAI knows ``24h`` only; here any number of hours or minutes."""
    metadata: Metadata | None = None
    output_expires_after: Any = None

    @property
    def window_s(self) -> int:
        return int(self.completion_window[:-1]) * UNITS_S[self.completion_window[-1]]


def add(app: FastAPI, gateway: Gateway) -> None:
    worker: Worker = app.state.batches

    @app.post("/v1/batches")
    async def create(http: HttpRequest, body: BatchRequest) -> JSONResponse:
        return JSONResponse(_body(worker, await _create(gateway, worker, http.state.key.id, body)))

    @app.get("/v1/batches")
    async def batches(
        http: HttpRequest, after: str | None = None, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20
    ) -> JSONResponse:
        if after is not None:
            await _found(worker, http, after, "after")
        rows = await ask(worker.ledger.batches, http.state.key.id, after, limit)
        return JSONResponse(page(rows, limit, lambda row: _body(worker, row)))

    @app.get("/v1/batches/{batch_id}")
    async def batch(http: HttpRequest, batch_id: str) -> JSONResponse:
        return JSONResponse(_body(worker, await _found(worker, http, batch_id)))

    @app.post("/v1/batches/{batch_id}/cancel")
    async def cancel(http: HttpRequest, batch_id: str) -> JSONResponse:
        row = await _found(worker, http, batch_id)
        moved = await ask(worker.ledger.move, row.id, ["validating"], "cancelled")
        if not moved and not await ask(worker.ledger.move, row.id, ["in_progress"], "cancelling"):
            row = await _found(worker, http, batch_id)
            if row.status not in ("cancelling", "cancelled"):
                raise ApiError(400, f"the batch is {row.status} already", param="batch_id", code="invalid_value")
        worker.wake.set()
        return JSONResponse(_body(worker, await _found(worker, http, batch_id)))


async def _create(gateway: Gateway, worker: Worker, owner: str, body: BatchRequest) -> BatchRow:
    if body.output_expires_after is not None:
        raise unsupported("output_expires_after", "files stay until they are deleted")
    file = await ask(worker.ledger.file, owner, body.input_file_id)
    if file is None or file.purpose != "batch":
        raise ApiError(400, "there is no such file for a batch", param="input_file_id", code="file_not_found")
    now, most = int(time.time()), gateway.config.batches.max_open
    row = BatchRow(
        id=new_id("batch_"),
        owner=owner,
        model=gateway.model,
        endpoint=body.endpoint,
        input_file=file.id,
        output_file=new_id("file-"),
        error_file=new_id("file-"),
        window=body.completion_window,
        status="validating",
        created_s=now,
        expires_s=now + body.window_s,
        labels=json.dumps(body.metadata) if body.metadata else "{}",
        times="{}",
        errors="[]",
        total=0,
        completed=0,
        failed=0,
    )
    if not await ask(worker.ledger.add_batch, row, most):
        headers = {"Retry-After": "60"}
        raise ApiError(429, f"{most} batches of this key have not ended", code="too_many_batches", headers=headers)
    worker.wake.set()
    return row


async def _found(worker: Worker, http: HttpRequest, batch_id: str, param: str = "batch_id") -> BatchRow:
    row = await ask(worker.ledger.batch, batch_id, http.state.key.id)
    if row is None:
        raise ApiError(404, f"there is no batch {batch_id!r}", param=param, code="batch_not_found")
    return row


def _body(worker: Worker, row: BatchRow) -> dict[str, Any]:
    times, errors, ended = json.loads(row.times), json.loads(row.errors), row.status not in OPEN
    if not ended and (note := worker.notes.get(row.id) or worker.notes.get("")) is not None:
        errors = [{"code": note.code, "message": note.message, "param": None, "line": None}]
    stages = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": row.input_file,
        "completion_window": row.window,
        "status": row.status,
        "output_file_id": row.output_file if ended and row.completed else None,
        "error_file_id": row.error_file if ended and row.failed else None,
        "created_at": row.created_s,
        "expires_at": row.expires_s,
        **{f"{stage}_at": times.get(stage) for stage in stages},
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "metadata": json.loads(row.labels) or None,
    }
