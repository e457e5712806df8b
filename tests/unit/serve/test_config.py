from __future__ import annotations

import pytest

from tuneloop import config
from tuneloop.errors import ConfigError, ResourceError
from tuneloop.serve import ServeConfig


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_an_open_address_without_keys_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="auth is off") as caught:
        config.build(ServeConfig, {"host": host, "auth": False})
    assert "tuneloop keys create" in str(caught.value)
    assert config.build(ServeConfig, {"host": host}).value.auth


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_may_go_without_keys(host: str) -> None:
    assert config.build(ServeConfig, {"host": host, "auth": False}).value.loopback


def test_a_taken_port_is_two_lines() -> None:
    pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")
    from tuneloop.serve.server import listen

    with listen(ServeConfig(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(ResourceError, match="cannot listen") as caught:
            listen(ServeConfig(port=port))
    assert "hint: choose another port" in str(caught.value)


def test_open_metrics_without_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="auth is off"):
        config.build(ServeConfig, {"auth": False, "metrics_port": 9000, "metrics_host": "0.0.0.0"})
    assert config.build(ServeConfig, {"auth": False, "metrics_port": 9000}).value.metrics_loopback
