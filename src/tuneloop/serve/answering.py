"""A call on its way through the gateway: refused with a reason, or answered event by event. Every door uses this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Any

from tuneloop.errors import DataError
from tuneloop.serve import structured
from tuneloop.serve.access_log import note_answers
from tuneloop.serve.account import TIMED_OUT, Account
from tuneloop.serve.answer import Answer, Finish, Part, TokenLogprob
from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.serve.asked import Asked, Caller
from tuneloop.serve.filters.prompts import results
from tuneloop.serve.filters.text import Hits
from tuneloop.serve.gateway import Gateway
from tuneloop.serve.tally import Tally
from tuneloop.types import Context, Request, Sampling, TokenEvent

LEFT = TokenEvent("", finish="cancelled")
"""Put among a call's events when its client has left."""
LONG_PROMPT_CHARACTERS = 20_000
"""Longer prompts are tokenised on a thread, so that the others' tokens keep flowing."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine continues: as text (for reasoning that the prompt opens) and as token ids."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """News of answer number ``index``; ``finish`` comes with the last."""

    index: int
    parts: tuple[Part, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None


class Answering:
    """The answers to one call. Iterate over the deltas, or ``collect`` them; ``close`` it in any case.

    Make it with ``begin``.
    """

    def __init__(
        self,
        gateway: Gateway,
        asked: Asked,
        caller: Caller,
        prompts: list[Prompt],
        requests: list[Request],
        account: Account,
    ) -> None:
        self.gateway, self.asked, self.caller, self.account = gateway, asked, caller, account
        self.prompts = prompts
        self.prompt_tokens = sum(len(p.ids) for p in prompts)
        self.filters = [gateway.filters.output() for _ in requests]
        self.answers = [
            Answer(
                gateway.chat,
                prompt.text,
                asked.stops,
                stages=[
                    *structured.stages(gateway, asked),
                    *([guard] if guard else []),
                ],  # the guard sees what goes out
                logprobs=asked.logprobs,
                queue=guard.queue() if guard and asked.logprobs else None,
                reasoning=bool(asked.messages),
                calls=asked.use is not None,
            )
            for prompt, guard in zip((p for p in prompts for _ in range(asked.n)), self.filters, strict=True)
        ]
        self.prompt_hits = Hits()
        self._index = {request.id: i for i, request in enumerate(requests)}
        self._stream = gateway.hub.open(requests, background=caller.background)
        account.accepted(self._stream.events)

    @classmethod
    async def begin(cls, gateway: Gateway, asked: Asked, caller: Caller) -> Answering:
        """Check and accept a call.

        Raises:
            ApiError: It cannot be answered: 400, 404, 429 or 503.
        """
        account = await Account.open(gateway, asked, caller)
        try:
            return await cls._accept(gateway, asked, caller, account)
        except BaseException:
            account.close(None)
            raise

    @classmethod
    async def _accept(cls, gateway: Gateway, asked: Asked, caller: Caller, account: Account) -> Answering:
        if asked.model not in (None, gateway.model):
            raise ApiError(404, f"there is no model {asked.model!r} here", param="model", code="model_not_found")
        asked, hits = await gateway.filters.prompt(asked, gateway.chat)
        prompts = await _prompts(gateway, asked)
        asked = await structured.prepare(gateway, asked, prompts[0].text)
        requests = list(_requests(gateway, asked, caller, prompts))
        await account.reserve(requests)
        answering = cls(gateway, asked, caller, prompts, requests, account)
        answering.prompt_hits = hits
        return answering

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._deltas()

    async def _deltas(self) -> AsyncIterator[Delta]:
        """Ends when every answer is complete.

        Raises:
            ApiError: The engine failed.
        """
        left = len(self.answers)
        while left:
            event = await self._stream.events.get()
            if event is TIMED_OUT:
                raise self.account.timed_out()
            if event is LEFT:
                raise ApiError(499, "the client has left", code="client_left")
            index = self._index[event.request_id]
            answer = self.answers[index]
            if answer.finish:
                continue
            if event.finish in ("error", "cancelled"):
                raise structured.failed(event.error)
            parts = answer.add(event)
            if answer.finish:
                left -= 1
                self.gateway.hub.leave(event.request_id, answer.finish)
            logprobs = answer.take_logprobs() if self.asked.logprobs else ()
            if parts or logprobs or answer.finish:
                yield Delta(index, tuple(parts), tuple(logprobs), answer.finish)

    async def collect(self) -> list[list[TokenLogprob]]:
        """Wait for all answers; returns each one's logprobs."""
        found: list[list[TokenLogprob]] = [[] for _ in self.answers]
        async for delta in self:
            found[delta.index] += delta.logprobs
        return found

    def leave(self) -> None:
        """Nobody waits any more: whoever iterates gets a 499."""
        self._stream.events.put_nowait(LEFT)

    def close(self) -> None:
        """Free the slots; what still runs is cancelled. Can be called twice."""
        if self.account.closed:
            return
        self._stream.__exit__()
        note_answers(self)
        self.account.close(self)

    @property
    def tallies(self) -> Iterable[Tally]:
        """What was noted about each answer."""
        return self._stream.tallies.values()

    @property
    def finishes(self) -> list[Finish]:
        """How each answer ended: as its reader was told, else as the engine said, else its reader has left."""
        return [a.finish or t.finish or "cancelled" for a, t in zip(self.answers, self.tallies, strict=True)]

    @property
    def prompt_filter_results(self) -> dict[str, Any]:
        """What the filters found in the prompt, as a field of a body; {} when nothing."""
        found = results(self.prompt_hits)
        return {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": found}]} if found else {}

    def filter_results(self, index: int) -> dict[str, Any]:
        """What they found in an answer."""
        guard = self.filters[index]
        found = results(guard.hits) if guard else {}
        return {"content_filter_results": found} if found else {}

    @property
    def usage(self) -> dict[str, int]:
        made = sum(answer.tokens for answer in self.answers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }


async def _prompts(gateway: Gateway, asked: Asked) -> list[Prompt]:
    def render() -> list[Prompt]:
        chat = gateway.chat
        if not asked.messages:
            return [_raw(gateway, p) for p in asked.prompts]
        return [Prompt(*chat.prompt(asked.messages, asked.tools))]

    size = sum(len(m.content) for m in asked.messages) + sum(map(len, asked.prompts))
    try:
        return await asyncio.to_thread(render) if size > LONG_PROMPT_CHARACTERS else render()
    except DataError as error:
        raise ApiError(400, error.what, param="messages", code="invalid_messages") from error


def _raw(gateway: Gateway, prompt: str | tuple[int, ...]) -> Prompt:
    """A prompt to continue as it stands: the tokenizer's own beginning-of-text token, no template."""
    tokenizer = gateway.chat.tokenizer
    if isinstance(prompt, str):
        return Prompt(prompt, tuple(tokenizer(prompt, verbose=False)["input_ids"]))
    if bad := next((i for i in prompt if i >= len(tokenizer)), None):
        raise ApiError(400, f"there is no token {bad}", param="prompt", code="invalid_value")
    return Prompt("", prompt)


def _requests(gateway: Gateway, asked: Asked, caller: Caller, prompts: list[Prompt]) -> list[Request]:
    known, alone = gateway.context, len(prompts) * asked.n == 1
    context = Context(
        known.model,
        known.version,
        known.arm,
        known.precision,
        user=caller.user or caller.key.id,
        conversation=caller.conversation,
        traceparent=caller.traceparent,
    )
    out: list[Request] = []
    for prompt in prompts:
        sampling = _sampling(gateway, asked, len(prompt.ids))
        for i in range(asked.n):
            name = caller.request_id if alone else f"{caller.request_id}-{len(out)}"
            drawn = replace(sampling, seed=sampling.seed + i) if i and sampling.seed is not None else sampling
            out.append(Request(name, prompt.ids, drawn, gateway.chat.stop_ids, context))
    return out


def _sampling(gateway: Gateway, asked: Asked, prompt_tokens: int) -> Sampling:
    can, config = gateway.process.capabilities, gateway.config
    temperature = config.temperature if asked.temperature is None else asked.temperature
    for param, wanted, able, why in (
        ("temperature", temperature, can.sampling, "this engine only gives greedy answers"),
        ("seed", asked.seed is not None, can.seed, "this engine takes no seed"),
        ("presence_penalty", asked.presence_penalty, can.penalties, "this engine knows no penalties"),
        ("frequency_penalty", asked.frequency_penalty, can.penalties, "this engine knows no penalties"),
        ("logit_bias", asked.logit_bias, can.logit_bias, "this engine knows no logit_bias"),
        ("logprobs", asked.logprobs, can.logprobs, "this engine does not report probabilities"),
        ("response_format", asked.grammar, can.grammar, "this engine cannot keep to a JSON schema"),
    ):
        if wanted and not able:
            raise unsupported(param, why)
    if asked.top_logprobs > can.top_logprobs:
        raise unsupported("top_logprobs", f"this engine reports at most {can.top_logprobs} alternatives a token")
    room = None if can.max_context_tokens is None else can.max_context_tokens - prompt_tokens
    wanted_tokens = asked.max_tokens
    if room is not None and (room < 1 or (wanted_tokens is not None and wanted_tokens > room)):
        raise ApiError(
            400,
            f"the context holds {can.max_context_tokens} tokens; the prompt has {prompt_tokens}"
            + (f" and {wanted_tokens} were asked for" if wanted_tokens else ""),
            param=("messages" if asked.messages else "prompt") if room < 1 else "max_tokens",
            code="context_length_exceeded",
        )
    return Sampling(
        wanted_tokens or (config.max_tokens if room is None else min(config.max_tokens, room)),
        temperature,
        1.0 if asked.top_p is None else asked.top_p,
        max(asked.top_k or 0, 0),
        asked.seed,
        asked.presence_penalty,
        asked.frequency_penalty,
        asked.logit_bias,
        asked.logprobs or gateway.confidence.due(),
        asked.top_logprobs,
        asked.grammar,
    )
