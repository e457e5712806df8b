"""What Prometheus sees: vLLM's names under our prefix; labels say which model, never who or what.

Counters and histograms are fed here as things happen; what has a value at any moment is read when Prometheus asks
(``live.py``). Series of a known label are there from the start with 0: a counter that is born with its first error
hides that error from ``rate``.
"""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.registry import Collector

from tuneloop.serve.answer import Finish
from tuneloop.serve.tally import Tally
from tuneloop.types import Context

LABELS = ("model", "version", "arm", "precision")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)

ERRORS = ("engine", "internal")
"""Why an accepted request fails: the engine's fault, or ours."""
REFUSALS = ("queue_full", "engine_not_ready", "draining", "invalid_api_key", "missing_scope", "invalid_value")
"""The common reasons, counted from 0; any other code of an ``ApiError`` appears with its first refusal."""
CLOSED = ("too_many_connections", "slow_head", "slow_body", "slow_reader", "invalid_http")
"""Why a connection is closed on a client."""
CLIENT_LEFT = 499


class Metrics:
    """The instruments of one gateway, with their labels filled in. May be used from any thread.

    Args:
        context: Gives model, version, arm and precision.
    """

    def __init__(self, context: Context) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside every counter, for OpenMetrics only
        self.registry = CollectorRegistry()
        self.labels = {name: getattr(context, name) for name in LABELS}
        self._requests = self._counter("requests", "HTTP responses by route and status.", "route", "code")
        self._errors = self._counter("errors", "Accepted requests that failed, by reason.", "reason")
        self._rejected = self._counter("request_rejected", "Requests that were not accepted, by reason.", "reason")
        self._closed = self._counter("connections_closed", "Connections closed for what the client did.", "reason")
        self._success = self._counter("request_success", "Answers by how they ended.", "finished_reason")
        self._filters = self._counter("filter_hits", "What the filters found.", "filter", "side", "action")
        self._log_lines = self._counter("log_lines_dropped", "Log lines lost because their reader was too slow.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of accepted prompts.").labels(**self.labels)
        self.generation_tokens = self._counter("generation_tokens", "Tokens made.").labels(**self.labels)
        self.inter_token = self._histogram("inter_token_latency_seconds", "Between tokens.", TOKEN_SECONDS)
        self._first_token = self._histogram("time_to_first_token_seconds", "From acceptance to the first token.")
        self._end_to_end = self._histogram("e2e_request_latency_seconds", "From acceptance to the end.")
        self._queue = self._histogram("request_queue_time_seconds", "From acceptance to a place in the engine.")
        self._prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._generation = self._histogram("request_generation_tokens", "Tokens of an answer.", TOKENS)
        self._confidence = self._histogram("answer_confidence_ratio", "Mean token probability of an answer.", SHARES)
        self._model_latency = Histogram(
            "model_latency_seconds", "End-to-end latency of a request.", LABELS, buckets=SECONDS, registry=self.registry
        ).labels(**self.labels)
        self._begin_at_zero()

    def request(self, route: str, code: int) -> None:
        """An HTTP response. ``route`` is a route's template, never a caller's path."""
        self._requests.labels(**self.labels, route=route, code=str(code)).inc()

    def error(self, reason: str) -> None:
        """Something of ours failed: an accepted request, or what every request needs. Never what a client did."""
        self._errors.labels(**self.labels, reason=reason).inc()

    def refused(self, status: int, reason: str | None) -> None:
        """A request was answered with an ``ApiError``. A failure after acceptance, and a client that left, are counted elsewhere."""
        if status != CLIENT_LEFT and (status < 500 or status == 503):
            self._rejected.labels(**self.labels, reason=reason or str(status)).inc()

    def closed(self, reason: str) -> None:
        """A connection is closed because its client is too slow, one too many, or speaks no HTTP."""
        self._closed.labels(**self.labels, reason=reason).inc()

    def filter_hit(self, name: str, side: str, action: str, count: int = 1) -> None:
        """A filter found something; ``side`` is input or output, ``action`` block, mask or flag. 0 makes the series known."""
        self._filters.labels(**self.labels, filter=name, side=side, action=action).inc(count)

    def log_line_dropped(self) -> None:
        """The writer of logs could not keep up."""
        self._log_lines.labels(**self.labels).inc()

    def answered(self, tally: Tally, finish: Finish) -> None:
        """A request is over. Its latencies count where the client got all of its answer."""
        if finish == "error":
            if not tally.refused:  # by the engine, for a fault of the client: counted with the answer, a 400
                self.error("engine")
        else:
            self._success.labels(**self.labels, finished_reason=finish).inc()
        self._generation.observe(tally.tokens)
        if tally.confidence is not None:
            self._confidence.observe(tally.confidence)
        if tally.ended is not None and finish not in ("error", "cancelled"):
            self._end_to_end.observe(tally.ended - tally.accepted)
            self._model_latency.observe(tally.ended - tally.accepted)

    def placed(self, tally: Tally) -> None:
        """The engine has a place for a request."""
        if tally.queue_s is not None:
            self._queue.observe(tally.queue_s)

    def accepted(self, prompt_tokens: int) -> None:
        self.prompt_tokens.inc(prompt_tokens)
        self._prompt.observe(prompt_tokens)

    def first_token(self, tally: Tally) -> None:
        if tally.first_token_s is not None:
            self._first_token.observe(tally.first_token_s)

    def register(self, *collectors: Collector) -> None:
        """Have these read at every scrape."""
        for collector in collectors:
            self.registry.register(collector)

    def render(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)

    def _begin_at_zero(self) -> None:
        for error in ERRORS:
            self._errors.labels(**self.labels, reason=error)
        for closed in CLOSED:
            self._closed.labels(**self.labels, reason=closed)
        for refusal in REFUSALS:
            self._rejected.labels(**self.labels, reason=refusal)
        for finish in get_args(Finish):
            for reason in get_args(finish) or (finish,):
                if reason != "error":
                    self._success.labels(**self.labels, finished_reason=reason)
        self._log_lines.labels(**self.labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tuneloop_{name}", text, (*LABELS, *labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        found = Histogram(f"tuneloop_{name}", text, LABELS, buckets=buckets, registry=self.registry)
        return found.labels(**self.labels)
