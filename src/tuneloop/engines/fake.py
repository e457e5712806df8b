"""An engine without a model: instant, deterministic, and able to fail on purpose. For tests and for measuring gateways.

It echoes the prompt, one token a step, and ends where the prompt ends (``stop``), at a stop token (``stop``) or at
``max_tokens`` (``length``). With a temperature it draws tokens of the prompt by seed. With a grammar it writes the
shortest JSON that is allowed.

It has no logits; so that bias and penalties have something to move, the token that it would say counts as having
``FAVOURED`` and every other token of its source as having 0. The largest wins, the earliest where two are equal.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuneloop.engines.base import Capabilities, EngineStats, admit
from tuneloop.engines.config import EngineConfig
from tuneloop.engines.grammar import REFUSED
from tuneloop.engines.minimal_json import minimal
from tuneloop.errors import DataError
from tuneloop.models import load_tokenizer
from tuneloop.types import FinishReason, Request, TokenEvent

if TYPE_CHECKING:
    from tuneloop.models import Bundle


MAX_TOP_LOGPROBS = 20
FAVOURED = 5.0
"""Logits."""


class FakeEngine:
    """See the module.

    Args:
        bundle: Its tokenizer is read for answers with a grammar; nothing else is.
        config: ``config.fake`` says how to answer and when to fail.
    """

    name = "fake"

    def __init__(self, bundle: Bundle | None, config: EngineConfig) -> None:
        self._config, self._bundle = config.fake, bundle
        context = min(config.context_tokens or self._config.context_tokens, self._config.context_tokens)
        self.capabilities = Capabilities(
            logprobs=True,
            seed=True,
            sampling=True,
            penalties=True,
            logit_bias=True,
            top_logprobs=MAX_TOP_LOGPROBS,
            grammar=bundle is not None,
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
        self._tokenizer: Any = None

    def submit(self, request: Request) -> None:
        held = request.id in self._running or request.id in self._waiting
        if (ended := admit(request, self.capabilities, closed=self._closed, held=held)) is not None:
            self._events.append(ended)
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
            self._begin(request)
        if self._running:
            self._step()
        elif not self._events:
            time.sleep(timeout_s)
        events, self._events = list(self._events), deque()
        return events

    def _begin(self, request: Request) -> None:
        grammar, script = request.sampling.grammar, self._config.answer_ids
        try:
            if grammar is not None:
                script = self._ids(f"{grammar.before}{minimal(grammar.schema)}{grammar.after}")
        except DataError as error:
            self._events.append(TokenEvent(request.id, finish="error", error=f"{REFUSED}{error.what}"))
        else:
            self._running[request.id] = _Answer(request, script, random.Random(request.sampling.seed))

    def _ids(self, text: str) -> tuple[int, ...]:
        assert self._bundle is not None
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._bundle)
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

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
                top = tuple(map(answer.alternatives, ids)) if answer.request.sampling.top_logprobs else ()
                values = tuple(map(_logprob, ids)) if answer.request.sampling.logprobs else ()
                self._events.append(TokenEvent(answer.request.id, ids, values, finish, top=top))
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
    counts: Counter[int] = field(default_factory=Counter)

    def next(self, context_tokens: int) -> tuple[int | None, FinishReason | None]:
        prompt, sampling = self.request.prompt_ids, self.request.sampling
        source = self.script or prompt
        if self.made >= sampling.max_tokens or len(prompt) + self.made >= context_tokens:
            return None, "length"
        if self.made >= len(source):
            return None, "stop"
        token = self.draw.choice(source) if sampling.temperature and not self.script else source[self.made]
        if sampling.grammar is None:
            token = self._moved(token, source)
        if token in self.request.stop_ids:
            return None, "stop"
        self.made += 1
        self.counts[token] += 1
        return token, "length" if self.made == sampling.max_tokens else None

    def _moved(self, token: int, source: tuple[int, ...]) -> int:
        """What bias and penalties make of a choice."""
        sampling, bias = self.request.sampling, dict(self.request.sampling.logit_bias)
        if not (bias or sampling.presence_penalty or sampling.frequency_penalty):
            return token

        def value(other: int) -> float:
            count = self.counts[other]
            loss = sampling.presence_penalty + count * sampling.frequency_penalty if count else 0.0
            return (FAVOURED if other == token else 0.0) + bias.get(other, 0.0) - loss

        return max(dict.fromkeys((token, *source, *bias)), key=value)

    def alternatives(self, token: int) -> tuple[tuple[int, float], ...]:
        """The tokens after this one, each half as probable as the one before."""
        best, count = _logprob(token), self.request.sampling.top_logprobs
        return tuple((token + i, best - i * math.log(2)) for i in range(count))


def _logprob(token: int) -> float:
    """A made-up but fixed probability: between 1/2 and 1/8."""
    return -math.log(2 + token % 7)
