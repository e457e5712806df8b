"""Checks of what hostile clients send. Each takes time linear in what it looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuneloop.serve.api_error import ApiError

if TYPE_CHECKING:
    from tuneloop.serve.asked import Asked
    from tuneloop.serve.shield import ShieldConfig


def check_head(config: ShieldConfig, scope: Any) -> None:
    """Refuse a head that is too large, or that two servers could read in two ways.

    Raises:
        ApiError: 400, 414 or 431.
    """
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > config.max_url_bytes:
        raise ApiError(414, f"the URL has more than {config.max_url_bytes} bytes", code="url_too_long")
    headers = scope["headers"]
    if len(headers) > config.max_headers:
        raise ApiError(431, f"there are more than {config.max_headers} headers", code="too_many_headers")
    if sum(len(name) + len(value) for name, value in headers) > config.max_head_bytes:
        raise ApiError(431, f"the headers have more than {config.max_head_bytes} bytes", code="headers_too_long")
    if scope["http_version"] not in ("1.0", "1.1"):
        raise ApiError(400, "this is not HTTP/1.1", code="invalid_http", headers={"Connection": "close"})
    names = [name for name, _ in headers]
    # RFC 9112, 6.1: a message with both "ought to be handled as an error"; a proxy before us may believe the other one.
    if b"content-length" in names and b"transfer-encoding" in names:
        raise ApiError(
            400,
            "a request has either Content-Length or Transfer-Encoding",
            code="ambiguous_length",
            headers={"Connection": "close"},
        )
    if names.count(b"authorization") > 1 or names.count(b"host") > 1:
        raise ApiError(400, "a header that may come once came twice", code="repeated_header")


_TO_ROUND = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_ITEMS = bytes(set(range(256)) - set(b","))


def check_json(config: ShieldConfig, body: bytes) -> None:
    """Refuse a JSON text that is nested too deeply or has too many items, before anything is built from it.

    Strings are cut out first: without escapes, every second piece between quotation marks is outside of strings. Which
    bracket closes which is left to the parser: it never goes deeper than the brackets that open.

    Raises:
        ApiError: 400.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8", code="invalid_json") from None
    if b"\0" in body:  # no JSON has it, but UTF-16 has, and Python's parser would read that
        raise ApiError(400, "the body is not valid JSON", code="invalid_json")
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    outside = b"".join(pieces[::2])
    items = len(outside.translate(None, _NOT_ITEMS)) + outside.count(b"[") + outside.count(b"{")
    if items > config.max_json_items:
        raise ApiError(400, f"the body has more than {config.max_json_items} JSON items", code="json_too_large")
    brackets = outside.translate(_TO_ROUND, _NOT_BRACKETS)
    for _ in range(config.max_json_depth):  # each pass takes the innermost level away
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            break
        brackets = inner
    if brackets:
        deep = f"is nested more than {config.max_json_depth} deep"
        cut = "is not valid JSON: a bracket or a string is not closed, or not opened"
        raise ApiError(400, f"the body {deep if b'[]' in brackets else cut}", code="invalid_json")


def check_asked(config: ShieldConfig, asked: Asked) -> None:
    """Refuse a call that asks for too much, whichever door it came through.

    Raises:
        ApiError: 400, naming the field.
    """
    schema = len(asked.grammar.schema.encode("utf-8", "surrogatepass")) if asked.grammar else 0
    tools = len(asked.tools.encode("utf-8", "surrogatepass")) if asked.tools else 0
    for param, count, most, what in (
        ("messages", len(asked.messages), config.max_messages, "messages"),
        ("n", asked.n * max(len(asked.prompts), 1), config.max_n, "answers"),
        ("max_tokens", asked.max_tokens or 0, config.max_tokens, "tokens"),
        ("stop", len(asked.stops), config.max_stops, "stop strings"),
        ("response_format", schema, config.max_schema_bytes, "bytes of JSON schema"),
        ("tools", tools, config.max_schema_bytes, "bytes of tools"),
    ):
        if most is not None and count > most:
            raise ApiError(400, f"at most {most} {what} in one request", param=param, code="invalid_value")
