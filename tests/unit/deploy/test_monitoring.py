"""The files for Prometheus and Grafana: complete, filled in, and nothing that a wrong option could break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tuneloop.config import build
from tuneloop.deploy import MonitoringConfig, monitoring
from tuneloop.deploy.monitoring import BOUNDS_S
from tuneloop.errors import ConfigError, ResourceError


def test_targets_scheme_and_interval_are_in_the_configuration(tmp_path: Path) -> None:
    config = MonitoringConfig(targets=("10.0.0.5:8000", "[::1]:9"), scheme="https", scrape_interval_s=5)
    monitoring(config, tmp_path)
    found = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())
    job = found["scrape_configs"][0]
    assert found["global"]["scrape_interval"] == "5s"
    assert (job["scheme"], job["static_configs"][0]["targets"]) == ("https", ["10.0.0.5:8000", "[::1]:9"])
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "metrics.key"}


def test_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    for path in monitoring(MonitoringConfig(), tmp_path):
        assert "@" not in path.read_text(encoding="utf-8"), path


def test_what_stands_beside_is_left_alone(tmp_path: Path) -> None:
    key = tmp_path / "prometheus" / "metrics.key"
    key.parent.mkdir()
    key.write_text("tl-secret")
    monitoring(MonitoringConfig(), tmp_path)
    assert key.read_text() == "tl-secret"


def test_panels_have_their_own_place_and_number(tmp_path: Path) -> None:
    monitoring(MonitoringConfig(), tmp_path)
    board = json.loads((tmp_path / "grafana/dashboards/tuneloop.json").read_text())
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"]) > 15
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & mine, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= mine
    assert [v["name"] for v in board["templating"]["list"]] == ["source", "model", "version", "arm"]


def test_objectives_are_bounds_of_the_gateways_buckets() -> None:
    pytest.importorskip("prometheus_client", reason="pip install 'tuneloop[serve]'")
    from tuneloop.serve.metrics import SECONDS

    assert BOUNDS_S == SECONDS


@pytest.mark.parametrize(
    "values",
    [
        {"targets": []},
        {"targets": ["http://a:1"]},
        {"targets": ['a:1"]\nx: ["b:2']},
        {"first_token_slo_s": 3.0},
        {"slo_share": 1.0},
        {"scrape_interval_s": 0},
        {"prometheus_url": "file:///etc"},
        {"prometheus_url": 'http://a" # x'},
    ],
)
def test_an_impossible_option_is_an_error(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build(MonitoringConfig, values)


def test_a_folder_that_cannot_be_written_is_two_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        monitoring(MonitoringConfig(), tmp_path / "file" / "out")


def test_grafanas_own_types_read_the_dashboard_and_lose_nothing(tmp_path: Path) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="pip install 'tuneloop[peers]'")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    monitoring(MonitoringConfig(), tmp_path)
    register_default_plugins()
    ours = json.loads((tmp_path / "grafana/dashboards/tuneloop.json").read_text())
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))

    def lost(mine: object, read: object, path: str) -> list[str]:
        if isinstance(mine, dict) and isinstance(read, dict):
            return [
                p for k, v in mine.items() for p in (lost(v, read[k], f"{path}.{k}") if k in read else [f"{path}.{k}"])
            ]
        if isinstance(mine, list) and isinstance(read, list) and len(mine) == len(read):
            return [p for i, pair in enumerate(zip(mine, read, strict=True)) for p in lost(*pair, f"{path}[{i}]")]
        return [] if mine == read else [path]

    assert lost(ours, theirs, "") == []
