"""What Prometheus sees: names with vLLM's suffixes under our prefix; labels say which model, never who or what."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tuneloop.types import Context

LABELS = ("model", "version", "arm", "precision")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)


class Metrics:
    """The instruments of one gateway, with their labels filled in.

    Args:
        context: Gives model, version, arm and precision.
    """

    def __init__(self, context: Context) -> None:
        self.registry = CollectorRegistry()
        self._labels = {name: getattr(context, name) for name in LABELS}
        self._requests = self._counter("requests", "Answered requests by HTTP status.", "code")
        self._errors = self._counter("errors", "Requests that failed, by reason.", "reason")
        self._success = self._counter("request_success", "Completed answers by finish reason.", "finished_reason")
        self._filters = self._counter("filter_hits", "What the filters found.", "filter", "side", "action")
        self.running = self._gauge("num_requests_running", "Requests that have got their first token.")
        self.waiting = self._gauge("num_requests_waiting", "Accepted requests without a token yet.")
        self.capacity = self._gauge("request_capacity", "Accepted requests at which the next one is answered 429.")
        self.ready = self._gauge("engine_ready", "1 when tokens can flow.")
        self.restarts = self._gauge("engine_restarts", "How often the engine process was started again.")
        self.first_token = self._histogram("time_to_first_token_seconds", "From acceptance to the first token.")
        self.inter_token = self._histogram("inter_token_latency_seconds", "Between tokens.", TOKEN_SECONDS)
        self.end_to_end = self._histogram("e2e_request_latency_seconds", "From acceptance to the last token.")
        self.prompt_tokens = self._plain_counter("prompt_tokens", "Tokens of accepted prompts.")
        self.generation_tokens = self._plain_counter("generation_tokens", "Tokens made.")
        latency = Histogram(
            "model_latency_seconds", "End-to-end latency of a request.", LABELS, buckets=SECONDS, registry=self.registry
        )
        self.model_latency = latency.labels(**self._labels)

    def request(self, code: int) -> None:
        self._requests.labels(**self._labels, code=str(code)).inc()

    def error(self, reason: str) -> None:
        self._errors.labels(**self._labels, reason=reason).inc()

    def success(self, finish: str) -> None:
        self._success.labels(**self._labels, finished_reason=finish).inc()

    def filter_hit(self, name: str, side: str, action: str, count: int = 1) -> None:
        """A filter found something; ``side`` is input or output, ``action`` block, mask or flag. 0 makes the series known."""
        self._filters.labels(**self._labels, filter=name, side=side, action=action).inc(count)

    def render(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(f"tuneloop_{name}", text, (*LABELS, *more), registry=self.registry)

    def _plain_counter(self, name: str, text: str) -> Counter:
        return Counter(f"tuneloop_{name}", text, LABELS, registry=self.registry).labels(**self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"tuneloop_{name}", text, LABELS, registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        found = Histogram(f"tuneloop_{name}", text, LABELS, buckets=buckets, registry=self.registry)
        return found.labels(**self._labels)
