"""Configuration of the gateway."""

from __future__ import annotations

import ipaddress
from typing import ClassVar

from pydantic import Field, model_validator

from tuneloop.config import Config
from tuneloop.engines import EngineConfig
from tuneloop.serve.audit import AuditConfig
from tuneloop.serve.batches.config import BatchesConfig
from tuneloop.serve.filters.config import FiltersConfig
from tuneloop.serve.limits import LimitsConfig
from tuneloop.serve.observe import ObserveConfig
from tuneloop.serve.rpc.config import GrpcConfig
from tuneloop.serve.shield import ShieldConfig
from tuneloop.serve.tls import TlsConfig


class ServeConfig(Config):
    """How a bundle is served."""

    aliases: ClassVar[dict[str, str]] = {
        "infer_backend": "engine.name",
        "served_model_name": "model_name",
        "max_new_tokens": "max_tokens",
    }

    engine: EngineConfig = EngineConfig()
    """Which engine answers."""
    host: str = "127.0.0.1"
    """Where to listen. Only this machine by default; 0.0.0.0 opens it to the network and then needs keys."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port; 0 takes a free one."""
    grpc_port: int | None = Field(None, ge=0, le=65535)
    """TCP port of gRPC on the same address; 0 takes a free one, None switches it off."""
    grpc: GrpcConfig = GrpcConfig()
    """Options of gRPC."""
    batches: BatchesConfig = BatchesConfig()
    """Files and batches."""
    auth: bool = True
    """Ask for an API key on every route but /healthz and /readyz. It can be off only on a loopback address."""
    model_name: str | None = None
    """The name clients use; default: the bundle's."""
    system: str | None = None
    """System message of a question to /generate that brings none. Chat clients send their own."""
    arm: str = "default"
    """Label of this deployment in metrics and logs, for comparisons."""
    max_queue: int = Field(128, ge=0)
    """Requests that may wait beyond those the engine runs; one more is answered 429 with Retry-After."""
    max_tokens: int = Field(512, ge=1)
    """The length of an answer when the request does not say."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Used when the request does not say. 0 gives the answers that were evaluated; OpenAI's own default is 1."""
    max_body_bytes: int = Field(1_000_000, ge=1024)
    """A longer request body is answered 413."""
    drain_timeout_s: float = Field(120.0, gt=0)
    """After SIGTERM: how long accepted requests may take to finish."""
    observe: ObserveConfig = ObserveConfig()
    """Logs and readiness."""
    timeout_s: float = Field(600.0, gt=0)
    """An accepted request that takes longer, waiting included, is answered 504 and its place freed."""
    limits: LimitsConfig = LimitsConfig()
    """How much each key may ask for."""
    shield: ShieldConfig = ShieldConfig()
    """How much a client may send, and how long it may take."""
    audit: AuditConfig = AuditConfig()
    """Who asked what when."""
    tls: TlsConfig = TlsConfig()
    """Certificate and key."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """A port of its own for /metrics, on 127.0.0.1 without a key, on ``metrics_host`` with one; None: on the main port."""
    metrics_host: str = "127.0.0.1"
    """Where ``metrics_port`` listens. Keys with the scope metrics are asked for unless it is a loopback address."""
    filters: FiltersConfig = FiltersConfig()
    """What must not get in and what must not get out: personal data, unsafe content, prompt injection."""
    verify_weights: bool = True
    """Compare the bundle's files with its hashes before loading it."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach ``host``."""
        return _loopback(self.host)

    @property
    def metrics_loopback(self) -> bool:
        """Whether only this machine can reach ``metrics_host``."""
        return _loopback(self.metrics_host)

    @model_validator(mode="after")
    def _no_open_door(self) -> ServeConfig:
        if not self.auth and not self.loopback:
            raise ValueError(
                f"auth is off and {self.host} can be reached from other machines"
                "\nhint: keep auth on (tuneloop keys create), or listen on 127.0.0.1"
            )
        if not self.auth and self.metrics_port is not None and not self.metrics_loopback:
            raise ValueError(
                f"auth is off and the metrics at {self.metrics_host} can be read from other machines"
                "\nhint: keep auth on, or serve.metrics_host=127.0.0.1"
            )
        return self


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
