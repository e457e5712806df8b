"""``/v1/files``: what batches read and what they leave. A key sees its own."""

from __future__ import annotations

import asyncio
import errno
import tempfile
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Query
from starlette.datastructures import UploadFile
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, Response

from tuneloop.rundir import disk_error
from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.serve.batches.ledger import FileRow, new_id
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.routes.storage import ask, page

if TYPE_CHECKING:
    from tuneloop.serve.batches.worker import Worker

MAX_PAGE = 10_000
MAX_NAME = 255
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def add(app: FastAPI, gateway: Gateway) -> None:
    worker: Worker = app.state.batches
    tempfile.gettempdir()  # chosen now, by writing to it: when the disk is full there is none to choose

    @app.post("/v1/files")
    async def upload(http: HttpRequest) -> JSONResponse:
        try:
            async with http.form(max_files=1, max_fields=8) as form:
                given = _checked(dict(form.multi_items()))
                row = await _store(gateway, worker, given, http.state.key.id)
        except OSError as error:
            known = disk_error(error, worker.folder.path)
            raise ApiError(507 if error.errno in FULL else 500, known.what, code="disk") from error
        return JSONResponse(_body(row))

    @app.get("/v1/files")
    async def files(
        http: HttpRequest,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
        order: Literal["asc", "desc"] = "desc",
    ) -> JSONResponse:
        if after is not None:
            await _found(worker, http, after, "after")
        rows = await ask(worker.ledger.files, http.state.key.id, purpose, after, limit, order)
        return JSONResponse(page(rows, limit, _body))

    @app.get("/v1/files/{file_id}")
    async def file(http: HttpRequest, file_id: str) -> JSONResponse:
        return JSONResponse(_body(await _found(worker, http, file_id)))

    @app.get("/v1/files/{file_id}/content")
    async def content(http: HttpRequest, file_id: str) -> Response:
        row = await _found(worker, http, file_id)
        path = worker.folder.file(row.id)
        if not path.exists():
            raise ApiError(404, "the content of this file is gone from the disk", param="file_id", code="file_lost")
        return FileResponse(path, media_type="application/jsonl", filename=row.filename)

    @app.delete("/v1/files/{file_id}")
    async def delete(http: HttpRequest, file_id: str) -> JSONResponse:
        row = await _found(worker, http, file_id)
        if not await ask(worker.ledger.remove_file, row.owner, row.id):
            raise ApiError(400, "a batch that has not ended reads this file", param="file_id", code="file_in_use")
        await asyncio.to_thread(worker.folder.remove, row.id)
        return JSONResponse({"id": row.id, "object": "file", "deleted": True})


def _checked(form: dict[str, Any]) -> UploadFile:
    if unknown := sorted(form.keys() - {"file", "purpose"}):
        raise unsupported(unknown[0], f"{unknown[0]} is not supported by this server")
    if form.get("purpose") != "batch":
        raise ApiError(400, "purpose must be 'batch'", param="purpose", code="invalid_value")
    if not isinstance(file := form.get("file"), UploadFile):
        raise ApiError(400, "a file is needed", param="file", code="invalid_value")
    if not file.size:
        raise ApiError(400, "the file is empty", param="file", code="invalid_value")
    return file


async def _store(gateway: Gateway, worker: Worker, file: UploadFile, owner: str) -> FileRow:
    config, size = gateway.config.batches, file.size or 0
    if size > config.max_file_bytes:
        raise ApiError(
            413, f"the file has more than {config.max_file_bytes} bytes", param="file", code="file_too_large"
        )
    if await ask(worker.ledger.stored_bytes, owner) + size > config.max_stored_bytes:
        raise ApiError(
            403,
            f"the files of this key would take more than {config.max_stored_bytes} bytes; delete some",
            param="file",
            code="storage_quota_exceeded",
        )
    file_id = new_id("file-")
    stored = await asyncio.to_thread(worker.folder.save, file_id, file.file.read)
    row = FileRow(
        id=file_id,
        owner=owner,
        filename=(file.filename or "file").rpartition("/")[2][-MAX_NAME:],
        purpose="batch",
        bytes=stored,
        created_s=int(time.time()),
    )
    try:
        return await ask(worker.ledger.add_file, row, await asyncio.to_thread(worker.folder.name))
    except ApiError:
        await asyncio.to_thread(worker.folder.remove, file_id)
        raise


async def _found(worker: Worker, http: HttpRequest, file_id: str, param: str = "file_id") -> FileRow:
    row = await ask(worker.ledger.file, http.state.key.id, file_id)
    if row is None:
        raise ApiError(404, f"there is no file {file_id!r}", param=param, code="file_not_found")
    return row


def _body(row: FileRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": row.created_s,
        "expires_at": None,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }
