"""An engine without a model: instant, deterministic, and able to fail on purpose. For tests and for measuring gateways.

It echoes the prompt, one token a step, and ends where the prompt ends (``stop``), at a stop token (``stop``) or at
``max_tokens`` (``length``). With a temperature it draws tokens of the prompt by seed.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuneloop.engines.base import Capabilities, EngineStats, too_long
from tuneloop.engines.config import EngineConfig
from tuneloop.errors import ServeError
from tuneloop.types import FinishReason, Request, TokenEvent

if TYPE_CHECKING:
    from tuneloop.models import Bundle


class FakeEngine:
    """See the module.

    Args:
        bundle: Not read.
        config: ``config.fake`` says how to answer and when to fail.
    """

    name = "fake"

    def __init__(self, bundle: Bundle | None, config: EngineConfig) -> None:
        self._config = config.fake
        context = min(config.context_tokens or self._config.context_tokens, self._config.context_tokens)
        self.capabilities = Capabilities(
            logprobs=True,
            seed=True,
            sampling=True,
            score=True,
            batch_invariant=True,
            max_context_tokens=context,
            max_running=config.max_running,
        )
        self._running: dict[str, _Answer] = {}
        self._waiting: dict[str, Request] = {}
        self._events: deque[TokenEvent] = deque()
        self._made, self._closed = 0, False
        self._queries = self._hits = 0
        self._last: tuple[int, ...] = ()

    def submit(self, request: Request) -> None:
        if self._closed:
            raise ServeError("the engine is closed")
        if request.id in self._running or request.id in self._waiting:
            raise ServeError(f"request {request.id} is already in flight")
        if problem := too_long(len(request.prompt_ids), self.capabilities.max_context_tokens):
            self._events.append(TokenEvent(request.id, finish="error", error=problem))
            return
        self._waiting[request.id] = request

    def poll(self, timeout_s: float) -> list[TokenEvent]:
        if self._closed:
            return []
        while self._waiting and len(self._running) < self.capabilities.max_running:
            request = self._waiting.pop(next(iter(self._waiting)))
            self._queries += len(request.prompt_ids)
            self._hits += len(request.prompt_ids) if request.prompt_ids == self._last else 0
            self._last = request.prompt_ids
            self._running[request.id] = _Answer(request, self._config.answer_ids, random.Random(request.sampling.seed))
        if self._running:
            self._step()
        elif not self._events:
            time.sleep(timeout_s)
        events, self._events = list(self._events), deque()
        return events

    def cancel(self, request_id: str) -> None:
        if self._running.pop(request_id, None) or self._waiting.pop(request_id, None):
            self._events.append(TokenEvent(request_id, finish="cancelled"))

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        return [[_logprob(t) for t in ids[k:]] for ids, k in sequences]

    def stats(self) -> EngineStats:
        """As if it kept keys and values: the room is ``max_running`` contexts, a prompt asked twice running is a hit."""
        held = sum(len(a.request.prompt_ids) + a.made for a in self._running.values())
        room = (self.capabilities.max_context_tokens or 1) * self.capabilities.max_running
        return EngineStats(min(held / room, 1.0), self._queries, self._hits, 0)

    def close(self) -> None:
        self._closed = True
        self._running.clear()
        self._waiting.clear()
        self._events.clear()

    def _step(self) -> None:
        if self._config.token_delay_s:
            time.sleep(self._config.token_delay_s)
        for answer in list(self._running.values()):
            self._fail_if_asked()
            token, finish = answer.next(self.capabilities.max_context_tokens or 0)
            ids = () if token is None else (token,)
            self._made += len(ids)
            if ids or finish:
                self._events.append(TokenEvent(answer.request.id, ids, tuple(map(_logprob, ids)), finish))
            if finish:
                del self._running[answer.request.id]

    def _fail_if_asked(self) -> None:
        crash, hang = self._config.crash_after_tokens, self._config.hang_after_tokens
        due_crash, due_hang = crash is not None and self._made >= crash, hang is not None and self._made >= hang
        if not (due_crash or due_hang):
            return
        if marker := self._config.fault_once_file:
            if marker.exists():
                return
            marker.touch()
        if due_crash:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(60)


@dataclass(slots=True)
class _Answer:
    request: Request
    script: tuple[int, ...]
    draw: random.Random
    made: int = 0

    def next(self, context_tokens: int) -> tuple[int | None, FinishReason | None]:
        prompt, sampling = self.request.prompt_ids, self.request.sampling
        source = self.script or prompt
        if self.made >= sampling.max_tokens or len(prompt) + self.made >= context_tokens:
            return None, "length"
        if self.made >= len(source):
            return None, "stop"
        token = self.draw.choice(source) if sampling.temperature and not self.script else source[self.made]
        if token in self.request.stop_ids:
            return None, "stop"
        self.made += 1
        return token, "length" if self.made == sampling.max_tokens else None


def _logprob(token: int) -> float:
    """A made-up but fixed probability: between 1/2 and 1/8."""
    return -math.log(2 + token % 7)
