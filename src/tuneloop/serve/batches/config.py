"""Options of files and batches."""

from __future__ import annotations

from pydantic import Field

from tuneloop.config import Config, ConfigPath


class BatchesConfig(Config):
    """What ``/v1/files`` and ``/v1/batches`` take, and how much of the engine they use."""

    enabled: bool = True
    """Run batches. Without it, they are accepted and wait."""
    folder: ConfigPath | None = None
    """Where files are kept; default: ``batches`` in TUNELOOP_HOME. A gateway runs the batches whose
    files lie in its own; gateways that share the database and one folder take over from each other."""
    concurrency: int | None = Field(None, ge=1)
    """Requests of batches that run at once, at most; default: as many as the engine runs. They only use free places and
    leave them when other requests wait."""
    max_file_bytes: int = Field(100_000_000, ge=1024)
    """A longer upload is answered 413."""
    max_stored_bytes: int = Field(1_000_000_000, ge=1024)
    """What the files of one key may take together; then uploads are refused until some are deleted."""
    max_lines: int = Field(50_000, ge=1)
    """Requests in one batch."""
    max_open: int = Field(16, ge=1)
    """Batches of one key that have not ended."""
    attempts: int = Field(2, ge=1)
    """How often a request is tried when the engine fails under it."""
