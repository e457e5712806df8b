"""A path that no route has: told as such, with the path that may be meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.routing import BaseRoute, Match

from tuneloop.serve.api_error import ApiError


def has_route(routes: Sequence[BaseRoute], path: str) -> bool:
    """Whether any of them answers the path, by whatever method."""
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)


def no_route(routes: Sequence[Any], path: str) -> ApiError:
    """The 404. A base URL without /v1, with one too many or with a slash at its end is what mostly leads there."""
    rest = "/".join(part for part in path.split("/") if part not in ("", "v1"))
    meant = next((p for p in (f"/v1/{rest}", f"/{rest}") if has_route(routes, p)), None)
    known = ", ".join(sorted({route.path for route in routes if "{" not in route.path}))
    said = f"did you mean {meant}?" if meant else f"the paths are {known}"
    return ApiError(404, f"there is nothing at {path!r}; {said}", code="unknown_url")
