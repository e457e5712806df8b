"""Answers in any tokens: a stand-in for ``Chat`` whose tokens are the byte strings a test chooses."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Sequence

from tuneloop.serve.answer import Answer, Part, PartStage
from tuneloop.serve.filters.config import FiltersConfig
from tuneloop.serve.filters.filters import Filters
from tuneloop.serve.filters.output import OutputFilter
from tuneloop.serve.logprobs import TokenLogprob
from tuneloop.types import TokenEvent


class _Stream:
    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._tokens, self._decoder = tokens, codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        return "".join(self._decoder.decode(self._tokens[i]) for i in ids)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class Pieces:
    """Token i is ``tokens[i]``."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tokens

    def stream(self, *, calls: bool = False) -> _Stream:
        return _Stream(self.tokens)

    def token_bytes(self, token_id: int) -> bytes:
        return self.tokens[token_id]


class Said:
    """What a client has got when the answer is over."""

    def __init__(self, answer: Answer, parts: list[Part], logprobs: list[TokenLogprob], held: int) -> None:
        self.answer, self.parts, self.logprobs, self.held = answer, parts, logprobs, held

    @property
    def tokens(self) -> set[int]:
        """The places of the tokens whose logprobs came out; each token has one of its own."""
        return {round(-1.0 - entry.logprob) for entry in self.logprobs}

    def of(self, kind: str) -> str:
        return "".join(text for k, text in self.parts if k == kind)


def cut(text: str, cuts: Iterable[int]) -> list[bytes]:
    """The bytes of a text, cut anywhere."""
    raw = text.encode()
    edges = [0, *sorted(min(c, len(raw)) for c in cuts), len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(edges) if b > a]


def output(**config: dict[str, object]) -> OutputFilter | None:
    return Filters(FiltersConfig(**config), lambda *_: None).output()


def say(
    tokens: Sequence[bytes],
    guard: OutputFilter | None,
    *,
    prompt: str = "",
    stops: Sequence[str] = (),
    stages: Sequence[PartStage] = (),
    reasoning: bool = True,
    logprobs: bool = False,
    together: int = 1,
    top: Sequence[Sequence[bytes]] = (),
) -> Said:
    """An answer of these tokens, ``together`` of them in each event, as a client sees it."""
    alternatives = list(itertools.chain.from_iterable(top))
    chat = Pieces([*tokens, *alternatives])
    answer = Answer(
        chat,  # type: ignore[arg-type]
        prompt,
        stops,
        stages=[*stages, *([guard] if guard else [])],
        logprobs=logprobs,
        queue=guard.queue() if guard and logprobs else None,
        reasoning=reasoning,
    )
    parts, found, held = list[Part](), list[TokenLogprob](), 0
    starts = [len(tokens) + n for n in itertools.accumulate(map(len, top), initial=0)]
    for at in range(0, max(len(tokens), 1), together):
        ids = tuple(range(at, min(at + together, len(tokens))))
        last = at + together >= len(tokens)
        others = tuple(tuple((starts[i] + k, -2.0) for k in range(len(top[i]))) for i in ids) if top else ()
        parts += answer.add(TokenEvent("r", ids, tuple(-1.0 - i for i in ids), "stop" if last else None, top=others))
        found += answer.take_logprobs()
        held = max(held, guard.held if guard else 0)
        if answer.finish:
            break
    return Said(answer, parts, found, held)
