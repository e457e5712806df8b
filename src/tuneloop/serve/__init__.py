"""The gateway: HTTP in front of an engine, compatible with OpenAI's chat completions.

    serve.run(bundle_path, ServeConfig())          serve until SIGTERM, then drain
    serve.smoke(config, bundle, prompts, out)      start it, ask it over HTTP, measure, stop it
    serve.chat(config, bundle)                     a conversation in the terminal
    serve.keys.create(name), list_keys(), rotate(id), revoke(id)
    serve.verify_audit(paths)                      whether an audit log is whole

The gateway owns tokenizer and template; engines see token ids only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tuneloop.serve.config import ServeConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

    from starlette.types import ASGIApp

    from tuneloop.engines import EngineConfig
    from tuneloop.models import Bundle
    from tuneloop.rundir import RunDir
    from tuneloop.serve import keys
    from tuneloop.serve.audit_chain import Verified
    from tuneloop.serve.check import ServeCheck
    from tuneloop.serve.gateway import Gateway
    from tuneloop.types import Message

__all__ = ["Gateway", "ServeCheck", "ServeConfig", "chat", "create_app", "keys", "load", "run", "smoke", "verify_audit"]

_LAZY = {"Gateway": "tuneloop.serve.gateway", "ServeCheck": "tuneloop.serve.check"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "keys":
        return importlib.import_module("tuneloop.serve.keys")
    raise AttributeError(f"module 'tuneloop.serve' has no attribute {name!r}")


def run(bundle_path: Path, config: ServeConfig) -> None:
    """Serve a bundle until SIGINT or SIGTERM; every accepted request is answered before it returns.

    Raises:
        ConfigError: A bind that others can reach, without keys.
        ModelError: The bundle is broken or cannot be loaded.
        ResourceError: The port is taken.
        ServeError: Accepted requests were cut off, because they took longer than ``drain_timeout_s``.
    """
    from tuneloop.serve.server import serve

    serve(bundle_path, config)


def verify_audit(paths: Sequence[Path]) -> Verified:
    """Check the chain through audit logs, oldest first.

    Raises:
        DataError: A line was changed, moved or taken out; says which file and line.
    """
    from tuneloop.serve.audit_chain import verify

    return verify(paths)


def create_app(gateway: Gateway) -> ASGIApp:
    """The ASGI application of a gateway."""
    from tuneloop.serve.app import create_app as create

    return create(gateway)


def smoke(
    config: ServeConfig,
    bundle: Bundle,
    prompts: Sequence[Sequence[Message]],
    out: RunDir,
    *,
    expected: Sequence[str] | None = None,
    concurrency: int = 8,
    max_tokens: int = 32,
) -> ServeCheck:
    """Start the gateway on a free port, ask it every prompt over HTTP, measure, and stop it. See ``ServeCheck``."""
    from tuneloop.serve.check import smoke as check

    return check(config, bundle, prompts, out, expected=expected, concurrency=concurrency, max_tokens=max_tokens)


def load(out: RunDir) -> ServeCheck:
    """Read back what ``smoke`` wrote."""
    from tuneloop.serve.check import load as read

    return read(out)


def chat(
    config: EngineConfig,
    bundle: Bundle,
    *,
    system: str | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    source: TextIO | None = None,
    sink: TextIO | None = None,
) -> None:
    """Talk with a bundle: lines from ``source`` (standard input), answers to ``sink`` (standard output)."""
    from tuneloop.serve.client import converse

    converse(config, bundle, system=system, max_tokens=max_tokens, temperature=temperature, source=source, sink=sink)
