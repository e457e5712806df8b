"""The reference engine: any architecture of transformers, merged or unmerged adapters, prompts' shared beginnings once.

Continuous batching: every step runs one flat row with the next token of each running sequence and the prompts of those
that were just admitted. A model that a flat row cannot hold (``models/form.py``) computes each sequence by itself, with
transformers' own cache. ``tests/invariants`` holds it against transformers' own ``generate``.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from tuneloop.engines import grammar
from tuneloop.engines.base import Capabilities, EngineStats, too_long
from tuneloop.engines.choose_token import Chooser, most_probable
from tuneloop.engines.config import EngineConfig
from tuneloop.engines.kv import Group, Pass, Piece
from tuneloop.engines.prefixes import Prefixes
from tuneloop.errors import DataError, ModelError, ServeError
from tuneloop.models import (
    Bundle,
    Forest,
    beyond_flat,
    causal_model,
    hidden_states,
    layout,
    load_model,
    load_tokenizer,
    use_flat,
    use_own,
    window_tokens,
)
from tuneloop.progress import log
from tuneloop.types import FinishReason, Request, TokenEvent

PREFILL_TOKENS = 2048
"""Prompt tokens admitted into one step (at least one prompt is)."""

SCORE_TOKENS = 4096
"""Tokens of one scoring pass (at least one sequence)."""

CACHES = ("past_key_values", "cache_params", "state")
"""What transformers' models call their caches, as argument and in the output (the last two: Mamba, RWKV)."""

MAX_TOP_LOGPROBS = 20
"""As in OpenAI's API."""


@dataclass(slots=True)
class _Sequence:
    """A running request: the tokens it still has to feed, and its place in the cache (or its own cache, ``state``)."""

    request: Request
    group: Group
    slot: int
    feed: tuple[int, ...]
    chooser: Chooser
    made: int = 0
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    state: dict[str, Any] = field(default_factory=dict)
    past: tuple[int, ...] = ()
    """Of a model without a cache: everything before ``feed``."""


class TransformersEngine:
    """Engine over a transformers model in this process.

    Args:
        bundle: A model or adapter bundle, or a GGUF (dequantised).
        config: ``max_running`` bounds the batch, ``threads`` torch's threads.
    """

    name = "transformers"

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        merge = config.merge_adapter and not bundle.virtual_tokens
        self.model = load_model(bundle, merge=merge, dtype=config.dtype, device=config.device)
        inner = causal_model(self.model)
        self._alone = self._prepare(bundle)
        self._window = window_tokens(self.model)
        self.device = next(self.model.parameters()).device
        self._prefixes = Prefixes(self.model, share=config.prefix_cache and not self._alone)
        text = inner.config.get_text_config()  # type: ignore[operator, union-attr]
        context = config.context_of(getattr(text, "max_position_embeddings", None))
        self.capabilities = Capabilities(
            logprobs=True,
            seed=True,
            sampling=True,
            penalties=True,
            logit_bias=True,
            top_logprobs=MAX_TOP_LOGPROBS,
            grammar=grammar.available(),
            score=True,
            max_context_tokens=None if context is None else context - self._prefixes.virtual,
            max_running=config.max_running,
        )
        self._vocabulary = int(text.vocab_size)
        self._guides = grammar.Guides(lambda: load_tokenizer(bundle), self._vocabulary)
        self._guide_of: dict[str, grammar.Guide] = {}
        self._max_running = config.max_running
        self._waiting: deque[Request] = deque()
        self._running: list[_Sequence] = []
        self._ended: list[TokenEvent] = []
        self._closed = False

    def _prepare(self, bundle: Bundle) -> bool:
        """Set the model's attention; whether every sequence is computed by itself."""
        inner = causal_model(self.model)
        why, name = beyond_flat(self.model), type(inner).__name__
        knows = "logits_to_keep" in inspect.signature(inner.forward).parameters
        self._last = {"logits_to_keep": 1} if knows else {}
        if why is None:
            use_flat(self.model, hint="")
        elif bundle.virtual_tokens:
            raise ModelError(f"{name} {why}: virtual tokens cannot be served in front of it", hint="train.method=lora")
        else:
            use_own(self.model)
            log(f"  {name} {why}: requests are computed one by one, each with a cache of its own")
        return why is not None

    def submit(self, request: Request) -> None:
        """Queue a request. One that cannot fit the context is answered with an error event."""
        if self._closed:
            raise ServeError("the engine is closed", hint="create it again")
        if request.id in self._held() or request.id in self._guides:
            raise ServeError(f"request {request.id!r} is already in flight", hint="give every request its own id")
        if why := too_long(len(request.prompt_ids), self.capabilities.max_context_tokens):
            self._ended.append(TokenEvent(request.id, finish="error", error=why))
        elif bad := [t for t, _ in request.sampling.logit_bias if not 0 <= t < self._vocabulary]:
            self._ended.append(TokenEvent(request.id, finish="error", error=f"logit_bias: there is no token {bad[0]}"))
        elif request.sampling.grammar is not None:
            self._guides.begin(request)
        else:
            self._waiting.append(request)

    def _held(self) -> set[str]:
        return {r.id for r in self._waiting} | {s.request.id for s in self._running}

    def cancel(self, request_id: str) -> None:
        """Drop a request; it ends with ``cancelled``. An unknown id is ignored: it may just have finished."""
        for request in [r for r in self._waiting if r.id == request_id]:
            self._waiting.remove(request)
            self._guide_of.pop(request_id, None)
            self._ended.append(TokenEvent(request_id, finish="cancelled"))
        for sequence in [s for s in self._running if s.request.id == request_id]:
            self._release(sequence)
            self._ended.append(TokenEvent(request_id, finish="cancelled"))
        if self._guides.cancel(request_id):
            self._ended.append(TokenEvent(request_id, finish="cancelled"))

    def poll(self, timeout_s: float = 0.0) -> list[TokenEvent]:
        """Advance every running sequence by one token; without work, wait up to ``timeout_s`` seconds."""
        busy = bool(self._waiting or self._running or self._ended)
        for request, guide in self._guides.ready(0.0 if busy else timeout_s) if self._guides else ():
            if isinstance(guide, str):
                self._ended.append(TokenEvent(request.id, finish="error", error=guide))
            else:
                self._guide_of[request.id] = guide
                self._waiting.append(request)
        events, self._ended = self._ended, []
        if self._waiting or self._running:
            events += self._advance()
        elif not events and timeout_s > 0:
            time.sleep(min(timeout_s, 0.01))
        return events

    @torch.inference_mode()
    def _advance(self) -> list[TokenEvent]:
        self._admit()
        self._running.sort(key=lambda s: (id(s.group), s.slot))
        if self._alone:
            return self._choose(torch.stack([self._by_itself(s) for s in self._running]))
        tokens: list[int] = []
        pieces: list[Piece] = []
        for sequence in self._running:
            at, group = sequence.group.lengths[sequence.slot], sequence.group
            pieces.append(Piece(group, sequence.slot, len(tokens), len(tokens) + len(sequence.feed), at))
            tokens.extend(sequence.feed)
        row = torch.tensor([tokens], device=self.device)
        hidden_1TC = hidden_states(self.model, row, Pass(pieces, self.device))
        last = torch.tensor([p.end - 1 for p in pieces], device=self.device)
        logits_BV = self._head(hidden_1TC[0, last])
        for piece in pieces:
            piece.group.lengths[piece.slot] += piece.end - piece.start
        return self._choose(logits_BV)

    def _by_itself(self, sequence: _Sequence) -> Tensor:
        """Logits (V, float32) of the next token of one sequence."""
        model: Any = self.model
        tokens = (*sequence.past, *sequence.feed)
        row = torch.tensor([tokens], device=self.device)
        out = model(input_ids=row, use_cache=True, **sequence.state, **self._last)
        sequence.state = {name: out[name] for name in CACHES if name in out}
        sequence.past = () if sequence.state else tokens
        sequence.group.lengths[sequence.slot] += len(sequence.feed)
        logits_V: Tensor = out.logits[0, -1].float()
        return logits_V

    def _head(self, hidden_NC: Tensor) -> Tensor:
        logits: Tensor = causal_model(self.model).lm_head(hidden_NC).float()  # type: ignore[operator]
        return logits

    def _admit(self) -> None:
        """Move waiting requests into the batch, prompts' common beginnings computed once."""
        budget = PREFILL_TOKENS
        while self._waiting and len(self._running) < self._max_running:
            request = self._waiting[0]
            near = islice(self._waiting, 1, self._max_running)
            group = self._prefixes.group_for(request.prompt_ids, [r.prompt_ids for r in near])
            own = len(request.prompt_ids) - len(group.prefix)
            if own > budget and budget < PREFILL_TOKENS:
                break
            budget -= own
            self._waiting.popleft()
            self._prefixes.admitted(request.prompt_ids)
            self._running.append(
                _Sequence(
                    request,
                    group,
                    group.add(),
                    request.prompt_ids[len(group.prefix) :],
                    Chooser(request, self.device, self._guide_of.pop(request.id, None)),
                    stop_ids=frozenset(request.stop_ids),
                )
            )

    def _choose(self, logits_BV: Tensor) -> list[TokenEvent]:
        """Choose a token for every sequence; finished ones leave the batch."""
        chosen, failed = self._chosen(logits_BV)
        normaliser_B = logits_BV.logsumexp(-1)
        picked = logits_BV.gather(1, torch.tensor(chosen, device=self.device)[:, None])[:, 0]
        logprobs = (picked - normaliser_B).tolist()
        events: list[TokenEvent] = []
        finished: list[_Sequence] = []
        for b, (sequence, token) in enumerate(zip(self._running, chosen, strict=True)):
            if b in failed:
                event = TokenEvent(sequence.request.id, finish="error", error=failed[b])
            elif self._ends(sequence, token):
                event = TokenEvent(sequence.request.id, finish="stop")
            else:
                k = sequence.request.sampling.top_logprobs
                top = (most_probable(logits_BV[b], normaliser_B[b], k),) if k else ()
                try:
                    finish = self._took(sequence, token)
                    event = TokenEvent(sequence.request.id, (token,), (logprobs[b],), finish, top=top)
                except DataError as error:  # the grammar has become too complex
                    event = TokenEvent(sequence.request.id, finish="error", error=error.what)
            events.append(event)
            if event.finish:
                finished.append(sequence)
        for sequence in finished:
            self._release(sequence)
        return events

    def _chosen(self, logits_BV: Tensor) -> tuple[list[int], dict[int, str]]:
        """A token for each row, and why there is none for some (their token means nothing)."""
        chosen: list[int] = logits_BV.argmax(-1).tolist()
        failed: dict[int, str] = {}
        for b, sequence in enumerate(self._running):
            if not sequence.chooser.plainly_greedy:
                try:
                    chosen[b] = sequence.chooser.choose(logits_BV[b])
                except DataError as error:
                    failed[b] = error.what
        return chosen, failed

    def _ends(self, sequence: _Sequence, token: int) -> bool:
        return token in sequence.stop_ids or (sequence.chooser.guide is not None and token in self._guides.ends)

    def _took(self, sequence: _Sequence, token: int) -> FinishReason | None:
        """Make a token part of the answer; the reason if it was the last."""
        complete = sequence.chooser.took(token)
        sequence.made += 1
        sequence.feed = (token,)
        request, limit = sequence.request, self.capabilities.max_context_tokens
        full = limit is not None and len(request.prompt_ids) + sequence.made >= limit
        if complete:
            return "stop"
        return "length" if full or sequence.made >= request.sampling.max_tokens else None

    @torch.inference_mode()  # a cancel comes outside of a step, and what a step has made can only be changed in this mode
    def _release(self, sequence: _Sequence) -> None:
        self._running.remove(sequence)
        moved = sequence.group.remove(sequence.slot)
        for other in self._running:
            if other.group is sequence.group and other.slot == moved:
                other.slot = sequence.slot

    @torch.inference_mode()
    def score(self, sequences: Sequence[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        """Log-probabilities (nats) of the tokens of each sequence from index k >= 1 on, given all before them."""
        out: list[list[float]] = []
        at = 0
        while at < len(sequences):
            end, tokens = at, 0
            while end < len(sequences) and (end == at or tokens + len(sequences[end][0]) <= SCORE_TOKENS):
                tokens += len(sequences[end][0])
                end += 1
            out += self._score(sequences[at:end])
            at = end
        return out

    def _score(self, sequences: Sequence[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        longest = max(len(ids) for ids, _ in sequences) + self._prefixes.virtual
        if self._alone:
            return [self._score_by_itself(ids, first) for ids, first in sequences]
        if self._window is not None and longest > self._window:
            return [self._score_windowed(ids, first) for ids, first in sequences]
        forest = Forest.grow([ids for ids, _ in sequences])
        plan = layout(forest.nodes).to(self.device, next(self.model.parameters()).dtype)
        hidden_TC = hidden_states(self.model, torch.tensor([forest.tokens], device=self.device), plan)[0]
        out = []
        for (ids, first), places in zip(sequences, forest.places, strict=True):
            logits_NV = self._head(hidden_TC[torch.tensor(places[first - 1 : -1], device=self.device)])
            out.append(_log_probabilities(logits_NV, ids[first:]))
        return out

    def _score_windowed(self, ids: tuple[int, ...], first: int) -> list[float]:
        """Through the cache, whose attention knows windows."""
        group = self._prefixes.empty()
        row = torch.tensor([ids], device=self.device)
        hidden_TC = hidden_states(self.model, row, Pass([Piece(group, group.add(), 0, len(ids), 0)], self.device))[0]
        return _log_probabilities(self._head(hidden_TC[first - 1 : -1]), ids[first:])

    def _score_by_itself(self, ids: tuple[int, ...], first: int) -> list[float]:
        model: Any = self.model
        logits_1TV = model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits
        return _log_probabilities(logits_1TV[0, first - 1 : -1].float(), ids[first:])

    def stats(self) -> EngineStats:
        """The room is ``max_running`` whole contexts; a shared beginning is held once."""
        held = self._prefixes.held_tokens()
        context = self.capabilities.max_context_tokens
        usage = None if context is None else min(held / (context * self._max_running), 1.0)
        return EngineStats(usage, self._prefixes.queries, self._prefixes.hits)

    def close(self) -> None:
        """Drop everything; requests still running end without an event."""
        self._closed = True
        self._guides.close()
        for held in (self._waiting, self._running, self._prefixes, self._ended, self._guide_of):
            held.clear()


def _log_probabilities(logits_NV: Tensor, tokens: Sequence[int]) -> list[float]:
    target_N1 = torch.tensor(tokens, device=logits_NV.device)[:, None]
    return (logits_NV.gather(1, target_N1)[:, 0] - logits_NV.logsumexp(-1)).tolist()
