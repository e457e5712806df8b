"""What has a value at every moment, read when Prometheus asks: queue, engine, processes, GPUs.

A scrape is answered on the event loop, where the hub's numbers change; what the engine knows was sent by its process
before. What nobody knows is left out: a 0 would be a claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tuneloop import __version__
from tuneloop.serve.gpu import GpuCollector

if TYPE_CHECKING:
    from tuneloop.serve.gateway import Gateway


def watch(gateway: Gateway) -> None:
    """Have a gateway's state, both of its processes and the GPUs read at every scrape."""
    gateway.metrics.register(
        LiveCollector(gateway),
        ProcessCollector(registry=None),
        ProcessCollector("tuneloop_engine", lambda: gateway.process.pid or "none", registry=None),
        GpuCollector(),
    )


class LiveCollector(Collector):
    """The state of a gateway and of its engine.

    Args:
        gateway: Read at every scrape.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Called at every scrape."""
        hub, process = self._gateway.hub, self._gateway.process
        yield self._gauge("num_requests_running", "Requests with a place in the engine.", hub.running)
        yield self._gauge("num_requests_waiting", "Accepted requests that wait for a place.", hub.waiting)
        yield self._gauge("request_capacity", "Accepted requests at which the next one is answered 429.", hub.capacity)
        yield self._gauge("ready", "1 when tokens can flow, as /readyz says.", self._gateway.ready)
        yield self._gauge("engine_silence_seconds", "How long requests are held without a token.", process.silent_s)
        yield self._counter("engine_restarts", "How often the engine process was started again.", process.restarts)
        stats = process.stats
        if stats.kv_cache_usage is not None:
            text = "Share of the room for keys and values in use; 1 is all of it."
            yield self._gauge("kv_cache_usage_perc", text, stats.kv_cache_usage)
        for name, text, value in (
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_cache_queries),
            ("prefix_cache_hits", "Prompt tokens found there.", stats.prefix_cache_hits),
            ("num_preemptions", "Running requests that lost their room and were computed again.", stats.preemptions),
        ):
            if value is not None:
                yield self._counter(name, text, value)
        yield self._info()

    def _info(self) -> Metric:
        labels = self._gateway.metrics.labels | {"engine": self._gateway.process.name, "tuneloop": __version__}
        info = GaugeMetricFamily(
            "tuneloop_model_info", "What is served, and by which engine; always 1.", labels=[*labels]
        )
        info.add_metric([*labels.values()], 1)
        return info

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        labels = self._gateway.metrics.labels
        family = GaugeMetricFamily(f"tuneloop_{name}", text, labels=[*labels])
        family.add_metric([*labels.values()], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        labels = self._gateway.metrics.labels
        family = CounterMetricFamily(f"tuneloop_{name}", text, labels=[*labels])
        family.add_metric([*labels.values()], value)
        return family
