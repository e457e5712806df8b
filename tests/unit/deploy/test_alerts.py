"""Every rule as Prometheus itself evaluates it (``promtool test rules``): when it fires, and when it keeps quiet."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tuneloop.deploy import MonitoringConfig, monitoring

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="apt-get install prometheus (it brings promtool)")

LABELS = 'job="tuneloop",instance="a:1",model="m",version="1",arm="default",precision="Q8_0"'


def s(name: str, **more: str) -> str:
    return name + "{" + LABELS + "".join(f',{k}="{v}"' for k, v in more.items()) + "}"


ERRORS = s("tuneloop_errors_total", reason="engine")
ANSWERS = s("tuneloop_request_success_total", finished_reason="stop")
FIRST_COUNT = s("tuneloop_time_to_first_token_seconds_count")
FIRST_IN_TIME = s("tuneloop_time_to_first_token_seconds_bucket", le="2.5")
RUNNING, WAITING = s("tuneloop_num_requests_running"), s("tuneloop_num_requests_waiting")
CAPACITY = s("tuneloop_request_capacity")
FULL = s("tuneloop_request_rejected_total", reason="queue_full")
HITS = s("tuneloop_filter_hits_total", filter="personal", side="output", action="block")
SURE_SUM, SURE_COUNT = s("tuneloop_answer_confidence_ratio_sum"), s("tuneloop_answer_confidence_ratio_count")

FIRES: dict[str, tuple[int, Mapping[str, str]]] = {
    "TuneloopDown": (5, {s("up"): "0x10"}),
    "TuneloopNotReady": (5, {s("tuneloop_ready"): "0x10"}),
    "TuneloopErrorRateHigh": (15, {ERRORS: "0+3x20", ANSWERS: "0+97x20"}),
    "TuneloopLatencyBudgetBurnsFast": (65, {FIRST_IN_TIME: "0+80x70", FIRST_COUNT: "0+100x70"}),
    "TuneloopLatencyBudgetBurnsSlowly": (370, {FIRST_IN_TIME: "0+92x380", FIRST_COUNT: "0+100x380"}),
    "TuneloopQueueNearCapacity": (8, {RUNNING: "8x10", WAITING: "110x10", CAPACITY: "136x10"}),
    "TuneloopRefusesForLoad": (15, {FULL: "0+6x20"}),
    "TuneloopEngineRestarts": (10, {s("tuneloop_engine_restarts_total"): "0x5 1x10"}),
    "TuneloopKvCacheNearlyFull": (15, {s("tuneloop_kv_cache_usage_perc"): "0.95x20"}),
    "TuneloopFilterSpike": (1452, {HITS: "0+1x1440 1440+10x20"}),
    "TuneloopConfidenceDrop": (1450, {SURE_SUM: "0+9x1400 12600+5x60", SURE_COUNT: "0+10x1460"}),
    "TuneloopNoTraffic": (1495, {ANSWERS: "0+1x1440 1440x70"}),
}
"""Alert -> the minute at which it is looked at, and the series a minute apart in promtool's notation."""

QUIET: dict[str, tuple[str, int, Mapping[str, str]]] = {
    "it is up": ("TuneloopDown", 5, {s("up"): "1x10"}),
    "one scrape was missed": ("TuneloopDown", 5, {s("up"): "1 1 1 1 0 1x10"}),
    "a restart of a minute": ("TuneloopNotReady", 5, {s("tuneloop_ready"): "1 1 1 1 0 1x10"}),
    "one per cent fails": ("TuneloopErrorRateHigh", 15, {ERRORS: "0+1x20", ANSWERS: "0+99x20"}),
    "nobody asks": ("TuneloopErrorRateHigh", 15, {ERRORS: "0x20", ANSWERS: "0x20"}),
    "a tenth is late": ("TuneloopLatencyBudgetBurnsFast", 65, {FIRST_IN_TIME: "0+90x70", FIRST_COUNT: "0+100x70"}),
    "it was slow and is not any more": (
        "TuneloopLatencyBudgetBurnsFast",
        75,
        {FIRST_IN_TIME: "0+50x60 3000+100x20", FIRST_COUNT: "0+100x80"},
    ),
    "one in twenty is late": (
        "TuneloopLatencyBudgetBurnsSlowly",
        370,
        {FIRST_IN_TIME: "0+95x380", FIRST_COUNT: "0+100x380"},
    ),
    "half full": ("TuneloopQueueNearCapacity", 8, {RUNNING: "8x10", WAITING: "60x10", CAPACITY: "136x10"}),
    "refused for another reason": (
        "TuneloopRefusesForLoad",
        15,
        {FULL: "0x20", s("tuneloop_request_rejected_total", reason="invalid_api_key"): "0+60x20"},
    ),
    "restarted long ago": ("TuneloopEngineRestarts", 30, {s("tuneloop_engine_restarts_total"): "0x5 1x30"}),
    "the cache is full for a moment": (
        "TuneloopKvCacheNearlyFull",
        15,
        {s("tuneloop_kv_cache_usage_perc"): "0.5x9 0.95x2 0.5x10"},
    ),
    "as many hits as always": ("TuneloopFilterSpike", 1452, {HITS: "0+10x1460"}),
    "a few hits on a quiet day": ("TuneloopFilterSpike", 1452, {HITS: "0x1445 1 2 3 4 5x20"}),
    "a little less sure": ("TuneloopConfidenceDrop", 1450, {SURE_SUM: "0+9x1400 12600+8x60", SURE_COUNT: "0+10x1460"}),
    "few answers": ("TuneloopConfidenceDrop", 1450, {SURE_SUM: "0+0.9x1400 1260+0.5x60", SURE_COUNT: "0+1x1460"}),
    "quiet as every night": ("TuneloopNoTraffic", 1495, {ANSWERS: "5x1500"}),
    "traffic goes on": ("TuneloopNoTraffic", 1495, {ANSWERS: "0+1x1500"}),
}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("monitoring")
    monitoring(MonitoringConfig(), out)
    (out / "prometheus" / "metrics.key").write_text("key")
    return out / "prometheus" / "rules"


def promtool(*arguments: str) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check(rules: Path, tmp_path: Path, series: Mapping[str, str], minute: int, expr: str, value: float | None) -> None:
    """What an expression gives after the rules ran over the series; None: nothing."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{minute}m", "exp_samples": [] if value is None else [{"value": value}]}
        ],
    }
    file = tmp_path / "test.yml"
    every = "1m" if minute < 100 else "5m"  # a day, minute by minute, takes seconds
    files = sorted(map(str, rules.glob("*.yml")))
    file.write_text(yaml.safe_dump({"rule_files": files, "evaluation_interval": every, "tests": [test]}))
    promtool("test", "rules", str(file))


def firing(alert: str) -> str:
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'


def test_the_configuration_and_the_rules_are_valid(rules: Path) -> None:
    promtool("check", "config", str(rules.parent / "prometheus.yml"))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(rules: Path) -> None:
    groups = yaml.safe_load((rules / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert alerts == set(FIRES) == {alert for alert, _, _ in QUIET.values()}


@pytest.mark.parametrize("alert", FIRES)
def test_it_fires(rules: Path, tmp_path: Path, alert: str) -> None:
    minute, series = FIRES[alert]
    check(rules, tmp_path, series, minute, firing(alert), 1)


@pytest.mark.parametrize("case", QUIET)
def test_it_keeps_quiet(rules: Path, tmp_path: Path, case: str) -> None:
    alert, minute, series = QUIET[case]
    check(rules, tmp_path, series, minute, firing(alert), None)


def test_the_tutorials_rule_is_there_word_for_word_and_right(rules: Path, tmp_path: Path) -> None:
    recorded = yaml.safe_load((rules / "recording.yml").read_text())["groups"][0]["rules"]
    wanted = "histogram_quantile(0.99, sum(rate(model_latency_seconds_bucket[5m])) by (le))"
    assert {"record": "model:latency:p99", "expr": wanted} in recorded
    series = {
        s("model_latency_seconds_bucket", le="1.0"): "0+50x20",
        s("model_latency_seconds_bucket", le="2.5"): "0+100x20",
        s("model_latency_seconds_bucket", le="+Inf"): "0+100x20",
    }
    # Rank 99 of 100; 50 lie below 1 s, 50 between 1 s and 2.5 s: 1 + 1.5 * 49 / 50.
    check(rules, tmp_path, series, 10, "round(sum(model:latency:p99), 0.001)", 2.47)


def test_the_objective_is_in_the_rules(tmp_path: Path) -> None:
    monitoring(MonitoringConfig(first_token_slo_s=5.0, slo_share=0.95), tmp_path)
    rules = tmp_path / "prometheus" / "rules"
    alerts = (rules / "alerts.yml").read_text()
    assert 'le="5.0"' in (rules / "recording.yml").read_text()
    assert "14.4 * 0.05 and" in alerts
    assert json.dumps("5.0 s for their first token")[1:-1] in alerts
