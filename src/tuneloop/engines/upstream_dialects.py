"""How servers with OpenAI's interface take token ids and give them back, and how to find out which way a server goes.

``vllm``          ``POST /v1/completions`` with ``return_token_ids`` (vLLM 0.11 and later; vllm/entrypoints/openai)
``llama-server``  ``POST /completion`` with ``return_tokens`` (tools/server/README.md of llama.cpp)
``text``          any other: the prompt goes out as ids, the answer comes back as text and is tokenised here
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tuneloop.engines.base import Capabilities
from tuneloop.engines.grammar import lark
from tuneloop.errors import ServeError
from tuneloop.types import FinishReason, Grammar, Request, Sampling, TokenEvent

Tokenize = Callable[[str], Sequence[int]]
Top = tuple[tuple[tuple[int, float], ...], ...]

PROBE_IDS = [0]
MAX_TOP_LOGPROBS = 20
"""vLLM's default ``--max-logprobs``; OpenAI's own limit too."""
_REPAIR_TOKENS = 3
_RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp's word for "draw a seed"."""
LLGUIDANCE = "%llguidance {}"
PROBE_WORD, PROBE_TOKENS = "tuneloop", 16
PROBE_GRAMMAR = Grammar(json.dumps({"const": PROBE_WORD}))
_FINISHES: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(slots=True)
class Job:
    """A request and how far it is."""

    request: Request
    room: int
    """How many tokens it may still have at the most, all in all."""
    made: list[int] = field(default_factory=list)
    begun: int = 0
    """How many tokens had been made when the last ``body`` was written."""
    repair: bool = False
    """The stream has left tokens out; they are asked for without streaming."""

    @property
    def left(self) -> int:
        return self.room - len(self.made)


class Dialect(Protocol):
    """One way to talk. It holds nothing about a request; that is in ``Job``."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def capabilities(self, context: int | None, running: int) -> Capabilities: ...

    def body(self, job: Job) -> dict[str, Any]:
        """What to send for what is left of a request."""
        ...

    def read(self, job: Job, chunk: Mapping[str, Any]) -> TokenEvent:
        """What a piece of the answer says. ``finish`` ends the request; without it, the next ``body`` goes on.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: It is not what this kind of server sends.
            ServeError: It says that it has failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """A tokenizer's control tokens by name, and those that end an answer whose grammar is complete."""

    by_name: Mapping[str, int] = field(default_factory=dict)
    ends: frozenset[int] = frozenset()


class Vllm:
    """Token ids both ways, logprobs under the model's own distribution (vLLM's ``logprobs_mode`` is raw by default).

    ``grammar`` says that the server keeps to one: ``structured_outputs`` (vLLM 0.12 and later) with llguidance's Lark, which
    vLLM's guidance reads. Its xgrammar refuses the first line and then, with the default backend ``auto``, guidance is taken;
    that is wanted, because xgrammar leaves white space free, in which small models get lost.
    """

    name, path = "vllm", "/v1/completions"

    def __init__(self, model: str | None, control: ControlTokens | None = None, *, grammar: bool = False) -> None:
        self._model, self._control, self._grammar = model, control or ControlTokens(), grammar

    def with_grammar(self) -> Vllm:
        """The same for a server that keeps to grammars."""
        return Vllm(self._model, self._control, grammar=True)

    def capabilities(self, context: int | None, running: int) -> Capabilities:
        return Capabilities(
            logprobs=True,
            seed=True,
            sampling=True,
            penalties=True,
            logit_bias=True,
            top_logprobs=MAX_TOP_LOGPROBS,
            grammar=self._grammar,
            max_context_tokens=context,
            max_running=running,
        )

    def body(self, job: Job) -> dict[str, Any]:
        sampling = job.request.sampling
        body = _openai(self._model, job) | {
            "top_k": sampling.top_k,
            "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
            "logprobs": sampling.top_logprobs if sampling.logprobs else None,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "ignore_eos": True,  # stop_token_ids decide, not the model file
            "stop_token_ids": list(job.request.stop_ids),
            "skip_special_tokens": False,
        }
        if sampling.grammar is not None:
            text = lark(sampling.grammar, self._control.by_name)
            body["structured_outputs"] = {"grammar": f"{LLGUIDANCE}\n{text}"}
            body["ignore_eos"] = False  # only the model file's end may follow where the grammar is complete
        return body

    def read(self, job: Job, chunk: Mapping[str, Any]) -> TokenEvent:
        choice = _choice(chunk)
        tokens = [int(t) for t in choice.get("token_ids") or ()]
        values: list[float] = []
        top: Top = ()
        if logprobs := choice.get("logprobs"):
            values = [float(v) for v in logprobs["token_logprobs"]]
            if count := job.request.sampling.top_logprobs:
                top = tuple(_best(found, count) for found in logprobs["top_logprobs"])
        ends = self._control.ends if job.request.sampling.grammar is not None else frozenset()
        return _event(job, tokens, values, top, _finish(choice), ends)


class LlamaServer:
    """Token ids both ways; its stream leaves out those that end inside a character, which are asked for again.

    It always ends at the model's own end tokens; at one that is no stop id of the request the answer goes on.
    """

    name, path = "llama-server", "/completion"

    def capabilities(self, context: int | None, running: int) -> Capabilities:
        return Capabilities(logprobs=True, seed=True, sampling=True, max_context_tokens=context, max_running=running)

    def body(self, job: Job) -> dict[str, Any]:
        job.begun = len(job.made)
        return _llama_sampling(job.request.sampling, job.begun) | {
            "prompt": [*job.request.prompt_ids, *job.made],
            "n_predict": min(job.left, _REPAIR_TOKENS) if job.repair else job.left,
            "stream": not job.repair,
            "return_tokens": True,
            "n_probs": int(job.request.sampling.logprobs),
            "cache_prompt": True,
        }

    def read(self, job: Job, chunk: Mapping[str, Any]) -> TokenEvent:
        _raise_error(chunk)
        tokens = [int(t) for t in chunk["tokens"]]
        if job.repair:
            job.repair = False
            full = len(tokens) < min(job.left, _REPAIR_TOKENS) and chunk["stop_type"] != "eos"
        elif int(chunk["tokens_predicted"]) - len(tokens) != len(job.made) - job.begun:
            job.repair = True  # what this chunk brings comes after the gap; it is made again
            return TokenEvent(job.request.id)
        else:
            full = bool(chunk["stop"]) and chunk["stop_type"] != "eos"
        values = [float(entry["logprob"]) for entry in chunk.get("completion_probabilities") or ()]
        return _event(job, tokens, values, (), "length" if full else None)


class Text:
    """Text comes back. Each piece is tokenised for itself: the ids say the same text, but need not be those that the
    server drew, and may be more or fewer; so there are no logprobs. It ends where the server ends it.
    """

    name, path = "text", "/v1/completions"

    def __init__(self, model: str | None, tokenize: Tokenize) -> None:
        self._model, self._tokenize = model, tokenize

    def capabilities(self, context: int | None, running: int) -> Capabilities:
        return Capabilities(
            seed=True,
            sampling=True,
            penalties=True,
            logit_bias=True,
            max_context_tokens=context,
            max_running=running,
        )

    def body(self, job: Job) -> dict[str, Any]:
        sampling = job.request.sampling
        more = {
            "top_k": sampling.top_k or None,  # not in OpenAI's interface; a server without it refuses it
            "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        }
        return _openai(self._model, job) | {key: value for key, value in more.items() if value is not None}

    def read(self, job: Job, chunk: Mapping[str, Any]) -> TokenEvent:
        choice = _choice(chunk)
        tokens = tuple(self._tokenize(str(choice.get("text") or "")))
        job.made += tokens
        return TokenEvent(job.request.id, tokens, finish=_finish(choice))


def _event(
    job: Job,
    tokens: list[int],
    values: list[float],
    top: Top,
    finish: FinishReason | None,
    ends: frozenset[int] = frozenset(),
) -> TokenEvent:
    """Cut at a stop id (or one of ``ends``) and at the limit, whatever the server has done about them."""
    stop = next((i for i, token in enumerate(tokens) if token in job.request.stop_ids or token in ends), None)
    keep = min(len(tokens) if stop is None else stop, job.left)
    if stop is not None and stop <= job.left:
        finish = "stop"
    elif keep == job.left:
        finish = "length"
    known = len(values) == len(tokens)
    job.made += tokens[:keep]
    kept = tuple(values[:keep]) if known else ()
    return TokenEvent(job.request.id, tuple(tokens[:keep]), kept, finish, top=top[:keep] if known else ())


def _best(found: Mapping[str, float] | None, count: int) -> tuple[tuple[int, float], ...]:
    """``{"token_id:17": -0.3, ...}`` -> the most probable, best first."""
    pairs = [(int(token.removeprefix("token_id:")), float(value)) for token, value in (found or {}).items()]
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:count])


def _openai(model: str | None, job: Job) -> dict[str, Any]:
    """The fields of OpenAI's completions that every such server knows."""
    sampling = job.request.sampling
    body: dict[str, Any] = {
        "prompt": list(job.request.prompt_ids),
        "max_tokens": job.room,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
    }
    if model is not None:
        body["model"] = model
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(sampling, name):
            body[name] = value
    return body


def _llama_sampling(sampling: Sampling, made: int) -> dict[str, Any]:
    """llama.cpp's words. Temperature comes first, as in transformers and vLLM; its own order cuts first."""
    if sampling.temperature == 0:
        return {"temperature": 0.0, "top_k": 1, "samplers": ["top_k"]}
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "seed": _RANDOM_SEED if sampling.seed is None else (sampling.seed + made) % _RANDOM_SEED,
        "samplers": ["temperature", "top_k", "top_p"],
    }


def _choice(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    _raise_error(chunk)
    choices: Sequence[Mapping[str, Any]] = chunk["choices"]
    return choices[0] if choices else {}


def _finish(choice: Mapping[str, Any]) -> FinishReason | None:
    if (reason := choice.get("finish_reason")) is None:
        return None
    if reason not in _FINISHES:
        raise ServeError(f"the server ended the answer: {reason}")
    return _FINISHES[reason]


def _raise_error(chunk: Mapping[str, Any]) -> None:
    if error := chunk.get("error"):
        raise ServeError(str(error.get("message", error) if isinstance(error, Mapping) else error))
