"""TLS for the gateway's own port."""

from __future__ import annotations

import ssl
import stat

from pydantic import model_validator

from tuneloop.config import Config, ConfigPath
from tuneloop.errors import ConfigError


class TlsConfig(Config):
    """Certificate and key; without them the gateway speaks plain HTTP."""

    certificate: ConfigPath | None = None
    """PEM file: the certificate, then those between it and the root."""
    key: ConfigPath | None = None
    """PEM file of its private key, which nobody else may read."""

    @model_validator(mode="after")
    def _both(self) -> TlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs both certificate and key\nhint: serve.tls.certificate=FILE serve.tls.key=FILE")
        return self


def context(config: TlsConfig) -> ssl.SSLContext | None:
    """A server's TLS context, at least TLS 1.2; None where no certificate is configured.

    Raises:
        ConfigError: A file is missing, is no PEM, does not fit the other, or the key can be read by everybody.
    """
    if config.certificate is None or config.key is None:
        return None
    for path in (config.certificate, config.key):
        if not path.is_file():
            raise ConfigError("there is no such file", where=str(path), hint="serve.tls names PEM files")
    if config.key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(
            "every user of this machine can read the private key",
            where=str(config.key),
            hint=f"chmod 600 {config.key} (Kubernetes: defaultMode: 0400), and think of a new key",
        )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(config.certificate, config.key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise ConfigError(
            f"certificate and key cannot be used: {error}",
            where=str(config.certificate),
            hint="both are PEM, belong together, and the key has no password",
        ) from None
    return made


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise ValueError("the key has a password")
