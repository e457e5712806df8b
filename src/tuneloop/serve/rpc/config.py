"""Options of gRPC."""

from __future__ import annotations

from pydantic import model_validator

from tuneloop.config import Config, ConfigPath


class GrpcConfig(Config):
    """How the gRPC port speaks; address, keys, scopes, the size limit and draining are those of HTTP."""

    tls_certificate: ConfigPath | None = None
    """PEM file with the certificate chain; with ``tls_key`` it switches TLS on."""
    tls_key: ConfigPath | None = None
    """PEM file with the private key."""
    tls_client_ca: ConfigPath | None = None
    """PEM file with the authorities that sign clients' certificates; with it, a client must have one."""

    @model_validator(mode="after")
    def _both_or_none(self) -> GrpcConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs tls_certificate and tls_key\nhint: give both, or none")
        if self.tls_client_ca is not None and self.tls_key is None:
            raise ValueError("tls_client_ca needs TLS\nhint: give tls_certificate and tls_key")
        return self
