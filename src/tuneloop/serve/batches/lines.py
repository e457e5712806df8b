"""An input file: one request a line, in OpenAI's form, all checked before the first one runs.

What a line wraps around a body must be right, or the whole file is refused; a body that cannot be answered stands in the
error file with what the live route would say, as every other failure of one request does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from tuneloop.serve import bodies
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.batches.ledger import Problem
from tuneloop.serve.chat_messages import Strict
from tuneloop.serve.checks import check_json
from tuneloop.serve.gateway import Gateway

MAX_PROBLEMS = 100
"""More are counted but not told."""


class LineBody(Strict):
    """What a line holds."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A request: its name, where it stands, and how many requests of the engine it is."""

    custom_id: str
    offset: int
    size: int = 1


def lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), offset in bytes and text of every line that is not blank."""
    offset = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield number, offset, text
            offset += len(text)


def check(gateway: Gateway, endpoint: str, path: Path) -> tuple[list[Line], list[Problem]]:
    """Read and check a whole file.

    Returns:
        Its requests, and what is wrong with it (at most ``MAX_PROBLEMS`` and a count of the rest).
    """
    found: list[Line] = []
    problems: list[Problem] = []
    first: dict[str, int] = {}
    limit, wrong = gateway.config.batches.max_lines, 0
    for number, offset, text in lines(path):
        if len(found) + wrong >= limit:
            return found, [Problem("too_many_requests", f"a batch has at most {limit} requests", line=number)]
        try:
            line = _read(gateway, endpoint, text)
            if (before := first.setdefault(line.custom_id, number)) != number:
                raise _Wrong("duplicate_custom_id", f"line {before} has the same custom_id", "custom_id")
        except _Wrong as error:
            wrong += 1
            if len(problems) < MAX_PROBLEMS:
                problems.append(Problem(error.code, error.message, error.param, number))
            continue
        found.append(Line(line.custom_id, offset, _size(gateway, endpoint, line.body)))
    if wrong > MAX_PROBLEMS:
        problems.append(Problem("more_errors", f"{wrong - MAX_PROBLEMS} more lines are wrong"))
    if not found and not wrong:
        problems.append(Problem("empty_file", "the file has no request"))
    return found, problems


def body_at(path: Path, line: Line) -> dict[str, Any]:
    """The body of a line that ``check`` has accepted."""
    with path.open("rb") as file:
        file.seek(line.offset)
        body: dict[str, Any] = json.loads(file.readline())["body"]
    return body


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def _read(gateway: Gateway, endpoint: str, text: bytes) -> LineBody:
    if len(text) > gateway.config.max_body_bytes:
        raise _Wrong("line_too_large", f"the line has more than {gateway.config.max_body_bytes} bytes")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise _Wrong("invalid_json_line", "the line is not valid JSON") from None
    try:
        check_json(gateway.config.shield, text)
    except ApiError as error:
        raise _Wrong("invalid_json_line", error.message.replace("the body", "the line")) from None
    try:
        line = LineBody.model_validate(values)
    except ValidationError as error:
        told = bodies.explain(error.errors(), values)
        raise _Wrong(told.code or "invalid_value", told.message, told.param) from None
    if line.url != endpoint:
        raise _Wrong("mismatched_url", f"the batch is for {endpoint}", "url")
    return line


def _size(gateway: Gateway, endpoint: str, body: dict[str, Any]) -> int:
    """How many requests of the engine a body is; 1 where it will be refused when its turn comes."""
    try:
        asked = bodies.read(gateway, endpoint, body).asked
    except ApiError:
        return 1
    return asked.n * max(1, len(asked.prompts))
