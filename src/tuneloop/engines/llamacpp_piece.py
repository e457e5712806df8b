"""One call of llama.cpp for one answer: what it is told, and what its chunks mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneloop.engines import grammar
from tuneloop.errors import DataError
from tuneloop.types import FinishReason, Request, Sampling

_RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp's word for "draw a seed"."""


@dataclass(eq=False, slots=True)
class Job:
    """A request and how far it is."""

    request: Request
    made: list[int] = field(default_factory=list)
    cancelled: bool = False
    finish: FinishReason | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What llama.cpp says about a token it chose: probabilities of the model itself, before bias and sampling."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Guided:
    """The grammar of an answer, here and in llama.cpp's words."""

    guides: grammar.Guides
    guide: grammar.Guide
    text: str

    def take(self, token: int) -> bool:
        """Go on by one token; true when it completes the answer or, as an end token of the model's, comes after it.

        Raises:
            DataError: The grammar does not allow this token here.
        """
        may_end = self.guide.may_end
        try:
            return self.guide.take(token)
        except DataError:
            if may_end:
                return True
            raise


@dataclass(eq=False, slots=True)
class Piece:
    """One call of llama.cpp: a stream, or a few tokens that a stream would have left out."""

    job: Job
    emit: Callable[[Job, int, Said | None], None]
    tokens: int
    streaming: bool
    guided: Guided | None = None
    count: int = 0
    gap: bool = False

    def body(self, slot: int, prefix_cache: bool) -> dict[str, Any]:
        made, sampling = self.job.made, self.job.request.sampling
        constrained = {} if self.guided is None else {"grammar": f"%llguidance {{}}\n{self.guided.text}"}
        return (
            _sampling(sampling, len(made))
            | constrained
            | {
                "prompt": [*self.job.request.prompt_ids, *made],
                "n_predict": self.tokens,
                "stream": self.streaming,
                "id_slot": slot,
                "cache_prompt": prefix_cache or bool(made),  # what this answer itself has computed is always kept
                "logprobs": max(1, sampling.top_logprobs) if sampling.logprobs else 0,
                "logit_bias": [list(pair) for pair in sampling.logit_bias],
                "return_tokens": True,
                "verbose": True,  # the only way to token ids in this route
            }
        )

    def on_chunk(self, chunk: Mapping[str, Any]) -> bool:
        """Take a chunk; True tells llama.cpp to stop."""
        job = self.job
        if job.cancelled:
            job.finish = "cancelled"
        elif problem := chunk.get("error"):
            job.finish, job.error = "error", str(problem.get("message", problem))
        else:
            try:
                self._take(chunk["__verbose"], chunk["choices"][0].get("logprobs"))
            except DataError as broken:  # an exception in this callback would leave llama.cpp waiting for ever
                job.finish, job.error = "error", broken.what
        return job.finish is not None or self.gap

    def _take(self, detail: Mapping[str, Any], logprobs: Mapping[str, Any] | None) -> None:
        tokens = list(detail["tokens"])
        ended = detail.get("stop") and (detail.get("stop_type") or "limit")
        missing = detail["tokens_predicted"] - self.count - len(tokens) if self.streaming else 0
        if missing and not (self.guided and ended):
            if self.guided is None:
                self.gap = True  # what this chunk brings comes after the gap; it is made again
                return
            tokens = self._found_again(detail["content"], missing + len(tokens))
        values: list[Said | None] = [_said(entry) for entry in (logprobs or {}).get("content", ())]
        if len(values) != len(tokens):
            values = [None] * len(tokens)
        for token, value in zip(tokens, values, strict=True):
            self.count += 1
            if token in self.job.request.stop_ids or (self.guided and token in self.guided.guides.ends):
                self.job.finish = "stop"
                return
            if self.guided is None:
                self.emit(self.job, token, value)
            elif not self._guide(token, value):
                return
        if self.streaming and ended and self.job.finish is None and (ended == "limit" or self.guided):
            self.job.finish = "length" if ended == "limit" else "stop"

    def _guide(self, token: int, value: Said | None) -> bool:
        """Emit a token that the grammar allows; false when the answer is complete."""
        assert self.guided is not None
        before_end = self.guided.guide.may_end
        if self.guided.take(token):
            self.job.finish = "stop"
        if not (self.job.finish and before_end):  # an end token of the model's is not part of the answer
            self.emit(self.job, token, value)
        return self.job.finish is None

    def _found_again(self, text: str, count: int) -> list[int]:
        assert self.guided is not None
        found = self.guided.guides.spelling.spell(text.encode(), count)
        if found is None:
            raise DataError(f"llama.cpp does not say which {count} tokens wrote {text!r}")
        return list(found)


def _said(entry: Mapping[str, Any]) -> Said:
    return Said(entry["logprob"], tuple((other["id"], other["logprob"]) for other in entry.get("top_logprobs", ())))


def _sampling(sampling: Sampling, made: int) -> dict[str, Any]:
    """llama.cpp's words. Temperature comes first, as in transformers and vLLM; its own order cuts first."""
    if sampling.temperature == 0:
        return {"temperature": 0.0, "top_k": 1, "samplers": ["top_k"]}
    seed = _RANDOM_SEED if sampling.seed is None else (sampling.seed + made) % _RANDOM_SEED
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "seed": seed,
        "samplers": ["temperature", "top_k", "top_p"],
    }
