"""What the routes of files and batches share: storage that does not answer, lists in pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from tuneloop.errors import ResourceError
from tuneloop.serve.api_error import ApiError

P = ParamSpec("P")
T = TypeVar("T")
RETRY_S = 5
THREADS = ThreadPoolExecutor(8, thread_name_prefix="storage")
"""Of their own: while the database is locked each waits for seconds, and asyncio's few have long prompts to read."""


async def ask(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Ask the database on a thread.

    Raises:
        ApiError: 503, it does not answer.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(THREADS, partial(work, *args, **kwargs))
    except ResourceError as error:
        raise ApiError(503, error.what, code="storage_unavailable", headers={"Retry-After": str(RETRY_S)}) from error


def page(rows: Sequence[Any], limit: int, body: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """A page in OpenAI's form, of ``limit`` rows and perhaps one more."""
    data = [body(row) for row in rows[:limit]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": len(rows) > limit}
