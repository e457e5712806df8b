"""Prometheus and Grafana for a gateway: scrape configuration, rules, alerts, dashboard, provisioning."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from tuneloop.config import Config
from tuneloop.deploy.dashboard import dashboard
from tuneloop.errors import ResourceError

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the gateway's latency buckets: an objective between two of them could not be measured."""
KEY_FILE = "prometheus/metrics.key"
PLACES = {
    "README.md": "README.md",
    "prometheus.yml": "prometheus/prometheus.yml",
    "recording.yml": "prometheus/rules/recording.yml",
    "alerts.yml": "prometheus/rules/alerts.yml",
    "datasource.yml": "grafana/provisioning/datasources/tuneloop.yml",
    "dashboards.yml": "grafana/provisioning/dashboards/tuneloop.yml",
}
"""Template -> where it is written."""


class MonitoringConfig(Config):
    """What is watched, and what counts as good."""

    targets: tuple[str, ...] = Field(("127.0.0.1:8000",), min_length=1)
    """host:port of every gateway."""
    scheme: Literal["http", "https"] = "http"
    """How Prometheus reaches them."""
    scrape_interval_s: int = Field(15, ge=1, le=60)
    """How often. The alerts' windows need four scrapes in five minutes."""
    first_token_slo_s: float = 2.5
    """The service level objective: this share of requests has its first token within so many seconds."""
    slo_share: float = Field(0.99, gt=0.5, lt=1)
    """See first_token_slo_s."""
    prometheus_url: str = "http://127.0.0.1:9090"
    """Where Grafana finds Prometheus."""

    @field_validator("targets")
    @classmethod
    def _host_and_port(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            if not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}", target):
                raise ValueError(f"{target!r} is not host:port\nhint: the scheme is an option of its own")
        return targets

    @field_validator("prometheus_url")
    @classmethod
    def _one_line(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s\"'#]+", url):
            raise ValueError(f"{url!r} is not an http address")
        return url

    @field_validator("first_token_slo_s")
    @classmethod
    def _measurable(cls, seconds: float) -> float:
        if seconds not in BOUNDS_S:
            raise ValueError(f"the objective must be one of the histogram's bounds: {', '.join(map(str, BOUNDS_S))}")
        return seconds


def monitoring(config: MonitoringConfig, out: Path) -> list[Path]:
    """Write everything below a folder; files of the same name are replaced, others are left alone.

    Returns:
        What was written.

    Raises:
        ResourceError: The folder cannot be written.
    """
    values = {
        "TARGETS": json.dumps(list(config.targets)),
        "SCHEME": config.scheme,
        "SCRAPE_INTERVAL": f"{config.scrape_interval_s}s",
        "SLO_SECONDS": str(config.first_token_slo_s),
        "SLO_SHARE": f"{config.slo_share:g}",
        "ERROR_BUDGET": f"{1 - config.slo_share:.6g}",
        "PROMETHEUS_URL": config.prometheus_url,
    }
    texts = {place: _fill(_template(name), values) for name, place in PLACES.items()}
    texts["grafana/dashboards/tuneloop.json"] = json.dumps(dashboard(_template("panels.yml")), indent=2) + "\n"
    written = []
    try:
        for place, text in texts.items():
            path = out / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise ResourceError(f"cannot write: {error.strerror}", where=str(out), hint="choose another --out") from error
    return written


def _template(name: str) -> str:
    return files("tuneloop.deploy").joinpath("templates", name).read_text(encoding="utf-8")


def _fill(text: str, values: dict[str, str]) -> str:
    """Replace ``@NAME@``; a name that is not known is a mistake of ours."""
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)
