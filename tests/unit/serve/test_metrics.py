"""The instruments: exact under concurrency, bounded in their labels, valid in Prometheus' format."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("prometheus_client", reason="pip install 'tuneloop[serve]'")

from prometheus_client.parser import text_string_to_metric_families

from tuneloop.serve.gpu import GpuCollector
from tuneloop.serve.metrics import LABELS, Metrics
from tuneloop.serve.tally import Tally
from tuneloop.types import Context, Request, TokenEvent

THREADS, EACH = 8, 500
OTHER_LABELS = {"le", "route", "code", "reason", "finished_reason", "filter", "side", "action"}


def metrics() -> Metrics:
    return Metrics(Context("bank", "1", "default", "Q8_0", user="joe", conversation="c7"))


def one_answer(found: Metrics) -> None:
    tally = Tally(Request("secret-id", (1, 2, 3)), accepted=0.0, placed=0.5)
    tally.take(TokenEvent("secret-id", (5,), (-0.5,)), 1.0)
    tally.take(TokenEvent("secret-id", finish="stop"), 2.0)
    found.accepted(3)
    found.placed(tally)
    found.first_token(tally)
    found.answered(tally, "stop")
    found.request("/generate", 200)


def test_nothing_is_lost_when_many_threads_count_and_prometheus_asks() -> None:
    found = metrics()

    def work(_: int) -> None:
        for i in range(EACH):
            one_answer(found)
            if i % 100 == 0:
                list(text_string_to_metric_families(found.render().decode()))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    n = THREADS * EACH
    for name, more, value in (
        ("tuneloop_request_success_total", {"finished_reason": "stop"}, n),
        ("tuneloop_e2e_request_latency_seconds_sum", {}, 2.0 * n),
        ("tuneloop_time_to_first_token_seconds_bucket", {"le": "1.0"}, n),
        ("tuneloop_request_queue_time_seconds_bucket", {"le": "0.25"}, 0),
        ("tuneloop_prompt_tokens_total", {}, 3 * n),
        ("tuneloop_request_generation_tokens_sum", {}, n),
        ("tuneloop_answer_confidence_ratio_bucket", {"le": "0.7"}, n),  # exp(-0.5) = 0.607
        ("tuneloop_answer_confidence_ratio_bucket", {"le": "0.6"}, 0),
        ("tuneloop_requests_total", {"route": "/generate", "code": "200"}, n),
    ):
        assert found.registry.get_sample_value(name, found.labels | more) == value, name


def test_labels_are_a_known_set_and_never_who_or_what() -> None:
    found = metrics()
    one_answer(found)
    text = found.render().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert set(LABELS) <= set(sample.labels) <= set(LABELS) | OTHER_LABELS, sample
    assert not any(word in text for word in ("joe", "c7", "secret-id"))


def test_known_series_begin_with_0_so_that_the_first_error_is_an_increase() -> None:
    found = metrics()
    for name, label, value in (
        ("tuneloop_errors_total", "reason", "engine"),
        ("tuneloop_errors_total", "reason", "internal"),
        ("tuneloop_request_rejected_total", "reason", "queue_full"),
        ("tuneloop_request_success_total", "finished_reason", "length"),
    ):
        assert found.registry.get_sample_value(name, found.labels | {label: value}) == 0


@pytest.mark.parametrize(("status", "code", "counted"), [(429, "queue_full", 1), (503, "draining", 1), (413, None, 1)])
def test_a_refusal_counts_by_its_reason(status: int, code: str | None, counted: int) -> None:
    found = metrics()
    found.refused(status, code)
    reason = {"reason": code or str(status)}
    assert found.registry.get_sample_value("tuneloop_request_rejected_total", found.labels | reason) == counted


@pytest.mark.parametrize("status", [499, 500])
def test_a_failure_after_acceptance_and_a_client_that_left_are_no_refusals(status: int) -> None:
    found = metrics()
    found.refused(status, "engine_error")
    assert 'reason="engine_error"' not in found.render().decode()


def test_a_machine_without_a_gpu_has_no_gpu_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)  # import fails
    assert list(GpuCollector().collect()) == []


def test_the_real_nvml_wrapper_without_a_driver_is_no_error() -> None:
    pynvml = pytest.importorskip("pynvml", reason="pip install 'tuneloop[gpu]'")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert list(GpuCollector().collect()) == []
    else:  # a GPU: it says at least how much memory it has
        families = {f.name: f.samples for f in GpuCollector().collect()}
        assert all(s.value > 0 for s in families["tuneloop_gpu_memory_total_bytes"])
