"""How much a client may send and ask for, and how long it may take. ``checks`` holds requests to it."""

from __future__ import annotations

from pydantic import Field

from tuneloop.config import Config


class ShieldConfig(Config):
    """Bounds of a connection, of a request's head, of its JSON, and of what it may ask for."""

    max_connections: int = Field(1024, ge=1)
    """Connections at a time; one more is closed at once."""
    head_timeout_s: float = Field(10.0, gt=0)
    """From the first moment of a connection, or the first byte of a further request, to the end of its headers."""
    body_timeout_s: float = Field(30.0, gt=0)
    """From the headers to the end of the body; then 408."""
    keep_alive_s: float = Field(5.0, gt=0)
    """How long a connection may rest between two requests."""
    write_timeout_s: float = Field(30.0, gt=0)
    """How long a client may leave its answer unread before it is cut off and its place freed."""
    max_head_bytes: int = Field(32_768, ge=1024)
    """Request line and headers together."""
    max_headers: int = Field(64, ge=8)
    """Number of headers; then 431."""
    max_url_bytes: int = Field(2048, ge=64)
    """Path and query; then 414."""
    upload_timeout_s: float = Field(600.0, gt=0)
    """As ``body_timeout_s``, for /v1/files."""
    max_json_depth: int = Field(32, ge=4, le=256)
    """How deep arrays and objects of a body may be nested."""
    max_json_items: int = Field(100_000, ge=100)
    """Members of objects and elements of arrays of a body, all together."""
    max_messages: int = Field(1024, ge=1)
    """Messages of a chat."""
    max_n: int = Field(128, ge=1)
    """Answers to one request, prompts times ``n``."""
    max_tokens: int | None = Field(None, ge=1)
    """The longest answer that a request may ask for; None leaves it to the model's context."""
    max_stops: int = Field(16, ge=0)
    """Stop strings."""
    max_schema_bytes: int = Field(65_536, ge=64)
    """A JSON schema for the answer, or all tools together, as JSON text."""
    cors_origins: tuple[str, ...] = ()
    """Web pages whose scripts may call this service, e.g. https://app.example; none by default."""
