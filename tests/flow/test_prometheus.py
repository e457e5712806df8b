"""A real Prometheus scrapes a real gateway with the files that ``tuneloop deploy monitoring`` writes."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.waiting import waiter
from tuneloop.deploy import MonitoringConfig, monitoring
from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import open_bundle
from tuneloop.serve import ServeConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.check import running  # noqa: E402

wait_for = waiter(30.0, every_s=0.1)
PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="apt-get install prometheus")

ASK = [{"role": "user", "content": "I lost my card"}]
SCRAPES = 4


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=10)

    def get(self, path: str, **params: str) -> Any:
        reply = self.http.get(f"/api/v1/{path}", params=params)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def query(self, expr: str) -> list[Any]:
        return list(self.get("query", query=expr)["result"])


class World:
    """Everything that runs."""

    def __init__(self, prometheus: Prometheus, folder: Path, url: str, key: str) -> None:
        self.prometheus, self.folder, self.url, self.key = prometheus, folder, url, key


def fake_nvml() -> ModuleType:
    """The calls of NVML's API that are used, for one GPU that does not tell its power and one that does."""

    class NVMLError(Exception):
        pass

    def power(handle: int) -> int:
        if handle == 0:
            raise NVMLError("not supported")
        return 250_000

    module = ModuleType("pynvml")
    vars(module).update(
        NVMLError=NVMLError,
        NVMLError_LibraryNotFound=type("NVMLError_LibraryNotFound", (NVMLError,), {}),
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetUUID=lambda h: f"GPU-{h}",
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=75),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=30 << 30, total=40 << 30),
        nvmlDeviceGetTemperature=lambda *_: 61,
        nvmlDeviceGetPowerUsage=power,
    )
    return module


@pytest.fixture(scope="module")
def world(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("monitoring")
    engine = EngineConfig(name="fake", max_running=2, fake=FakeConfig(token_delay_s=0.002))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pynvml", fake_nvml())
        with running(
            ServeConfig(engine=engine, model_name="bank"), open_bundle(tiny("llama", "chatml"))
        ) as running_one:
            gateway, url, key = running_one
            monitoring(MonitoringConfig(targets=(url.removeprefix("http://"),), scrape_interval_s=1), folder)
            (folder / "prometheus/metrics.key").write_text(key + "\n")
            gateway.metrics.filter_hit("personal", "output", "mask", 0)
            with started(folder, tmp_path_factory.mktemp("tsdb")) as prometheus:
                wait_for(lambda: scrapes(prometheus) >= 1)  # a counter's first value is no increase
                traffic(url, key)
                gateway.metrics.filter_hit("personal", "output", "mask")
                seen = scrapes(prometheus)
                wait_for(lambda: scrapes(prometheus) >= seen + SCRAPES)
                yield World(prometheus, folder, url, key)


class started:
    """Prometheus as the README of the folder starts it, on a free port."""

    def __init__(self, folder: Path, data: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = (data / "log").open("w+")
        self.process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={folder / 'prometheus/prometheus.yml'}",
                f"--storage.tsdb.path={data / 'tsdb'}",
                f"--web.listen-address={self.address}",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Prometheus:
        prometheus = self.api = Prometheus(f"http://{self.address}")

        def ready() -> bool:
            if self.process.poll() is not None:
                self.log.seek(0)
                pytest.fail(f"Prometheus ended: {self.log.read()}")
            try:
                return bool(prometheus.http.get("/-/ready").status_code == 200)
            except httpx.TransportError:
                return False

        wait_for(ready)
        return prometheus

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()
        self.api.http.close()


def traffic(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as http:
        for _ in range(12):
            assert http.post("/v1/chat/completions", json={"messages": ASK}).status_code == 200
        assert http.post("/v1/chat/completions", json={"messages": ASK, "max_tokens": 2}).status_code == 200
        assert http.post("/v1/chat/completions", json={"messages": ASK, "temperature": 9}).status_code == 400


def scrapes(prometheus: Prometheus) -> int:
    found = prometheus.query("count_over_time(tuneloop_ready[1h])")
    return int(found[0]["value"][1]) if found else 0


def panels() -> list[tuple[str, str]]:
    from importlib.resources import files

    rows = yaml.safe_load(files("tuneloop.deploy").joinpath("templates/panels.yml").read_text(encoding="utf-8"))
    return [(panel["title"], name) for row in rows for panel in row["panels"] for name in panel["queries"]]


def rules() -> list[str]:
    from importlib.resources import files

    folder = files("tuneloop.deploy").joinpath("templates")
    found = [yaml.safe_load(folder.joinpath(f).read_text(encoding="utf-8")) for f in ("recording.yml", "alerts.yml")]
    return [r.get("record") or r["alert"] for file in found for group in file["groups"] for r in group["rules"]]


def test_the_target_is_up_with_the_key_of_the_file(world: World) -> None:
    (target,) = world.prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_every_rule_is_loaded_and_evaluates_without_error(world: World) -> None:
    loaded = [r for group in world.prometheus.get("rules")["groups"] for r in group["rules"]]
    assert {r["name"] for r in loaded} == set(rules())
    assert {(r["health"], r.get("lastError")) for r in loaded} == {("ok", None)}


def test_nothing_fires_on_a_healthy_gateway(world: World) -> None:
    assert world.prometheus.get("alerts")["alerts"] == []


@pytest.mark.parametrize(("title", "name"), panels(), ids=lambda v: str(v))
def test_every_panel_shows_data(world: World, title: str, name: str) -> None:
    board = json.loads((world.folder / "grafana/dashboards/tuneloop.json").read_text())
    targets = [t for p in board["panels"] if p["title"] == title for t in p["targets"] if t["legendFormat"] == name]
    expr = targets[0]["expr"].replace("$__rate_interval", "1m")
    for label in ("model", "version", "arm"):
        expr = expr.replace(f"${label}", ".*")
    assert "$" not in expr
    result = world.prometheus.query(expr)
    assert result, expr
    assert any(r["value"][1] != "NaN" for r in result), expr
    for label in re.findall(r"\{\{(\w+)\}\}", name):
        assert all(label in r["metric"] for r in result), f"the legend's {label} is no label of {expr}"


@pytest.mark.parametrize("name", rules())
def test_every_rule_reads_what_is_emitted(world: World, name: str) -> None:
    """A comparison filters; with ``bool`` it says 0 or 1, so that only a series that does not exist gives nothing."""
    groups = [
        yaml.safe_load((world.folder / f"prometheus/rules/{f}").read_text())["groups"]
        for f in ("recording.yml", "alerts.yml")
    ]
    found = [
        r for file in groups for group in file for r in group["rules"] if name in (r.get("record"), r.get("alert"))
    ]
    expr = found[0]["expr"].replace(" offset 1d", "")  # this Prometheus is seconds old
    if "alert" in found[0]:
        expr = re.sub(r"\s(==|>|<)\s", r" \1 bool ", expr)
    assert world.prometheus.query(expr), expr


def test_the_variables_of_the_dashboard_have_values(world: World) -> None:
    board = json.loads((world.folder / "grafana/dashboards/tuneloop.json").read_text())
    for variable in board["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((\w+)[^,]*(?:,.*)?, (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        assert world.prometheus.get(f"label/{label}/values", **{"match[]": metric}), label


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        ("tuneloop_request_success_total{finished_reason='stop'}", 12),
        ("tuneloop_request_success_total{finished_reason='length'}", 1),
        ("tuneloop_request_rejected_total{reason='invalid_value'}", 1),
        ("tuneloop_requests_total{route='/v1/chat/completions',code='200'}", 13),
        ("tuneloop_request_generation_tokens_count", 13),
        ("model_latency_seconds_count", 13),
        ("tuneloop_gpu_utilization_ratio{gpu='1'}", 0.75),
        ("tuneloop_gpu_power_watts", 250),
        ("tuneloop_filter_hits_total{filter='personal',side='output',action='mask'}", 1),
        ("tuneloop_num_requests_running", 0),
    ],
)
def test_prometheus_has_counted_what_was_sent(world: World, expr: str, value: float) -> None:
    (result,) = world.prometheus.query(expr)
    assert float(result["value"][1]) == value


def test_without_the_key_prometheus_says_401(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "m")
    (tmp_path / "m/prometheus/metrics.key").write_text("tl-wrong")
    with started(tmp_path / "m", tmp_path) as prometheus:

        def errors() -> list[str]:
            return [t["lastError"] for t in prometheus.get("targets")["activeTargets"] if t["lastError"]]

        wait_for(lambda: bool(errors()))
        assert "401" in errors()[0]
