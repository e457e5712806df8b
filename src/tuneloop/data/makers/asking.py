"""Questions to a model, each paid once: answers are on the disk before they are used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tuneloop.config import hash_json
from tuneloop.data.makers import Around
from tuneloop.progress import track
from tuneloop.rundir import read_json, write_atomic


@dataclass(frozen=True, slots=True)
class Query:
    """One request. Two queries with the same messages and another ``number`` are two draws from the model."""

    messages: tuple[Mapping[str, str], ...]
    number: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; ``refused`` says why nothing did. Tokens are those that the endpoint counted (0 where it does not)."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    refused: str | None = None


class Asker(Protocol):
    """Puts queries to a model."""

    def __call__(self, queries: Sequence[Query]) -> list[Answer]:
        """One answer for each query, in order."""
        ...

    def bill(self) -> dict[str, int | float]:
        """What all answers together took: requests, of these from the cache, tokens, and the cost where prices are known."""
        ...


class Cache:
    """Answers by the hash of everything they depend on: one file each, complete and on the disk, or absent.

    Args:
        folder: Where the files are. They hold the questions too, and so the training rows that were quoted.
        asked: What is asked: endpoint, model and parameters. It is part of every key; secrets must not stand in it.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self._folder, self._asked = folder, dict(asked)

    def request(self, query: Query) -> dict[str, Any]:
        return {**self._asked, "messages": [dict(m) for m in query.messages], "number": query.number}

    def key(self, query: Query) -> str:
        return hash_json(self.request(query))

    def get(self, query: Query) -> Answer | None:
        """The answer, or None when there is none yet.

        Raises:
            DataError: The file was damaged by somebody.
        """
        path = self._folder / f"{self.key(query)}.json"
        return Answer(**read_json(path)["answer"]) if path.exists() else None

    def put(self, query: Query, answer: Answer) -> None:
        """Write an answer; when this returns, it survives a power cut."""
        held = {"request": self.request(query), "answer": asdict(answer)}
        write_atomic(self._folder / f"{self.key(query)}.json", json.dumps(held, ensure_ascii=False, indent=1) + "\n")


class Bill:
    """Running totals."""

    def __init__(self) -> None:
        self.requests = self.cached = self.tokens_in = self.tokens_out = 0

    def add(self, answer: Answer, *, cached: bool) -> None:
        self.requests += 1
        self.cached += cached
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out

    def totals(self) -> dict[str, int | float]:
        return {
            "requests": self.requests,
            "cached": self.cached,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
        }


def answered(
    queries: Sequence[Query], cache: Cache, bill: Bill, fetch: Callable[[Sequence[Query]], Sequence[Answer]]
) -> list[Answer]:
    """One answer for each query, from the cache or by ``fetch``, which is given each missing query once and caches itself."""
    keys = [cache.key(query) for query in queries]
    unique = dict(zip(keys, queries, strict=True))
    known = {key: answer for key, query in unique.items() if (answer := cache.get(query)) is not None}
    missing = {key: query for key, query in unique.items() if key not in known}
    fresh = dict(zip(missing, fetch(list(missing.values())), strict=True)) if missing else {}
    for key, answer in [*known.items(), *fresh.items()]:
        bill.add(answer, cached=key in known)
    return [(known.get(key) or fresh[key]) for key in keys]


class Local:
    """Asks whoever gave ``Around.ask``, batch by batch."""

    def __init__(self, around: Around, batch: int) -> None:
        assert around.ask is not None, "ready() has seen to it"
        self._ask, self._batch, self._label, self._bill = around.ask, batch, around.name, Bill()
        self._cache = Cache(around.cache / "answers", {"asked": around.asked, "seed": around.seed})

    def __call__(self, queries: Sequence[Query]) -> list[Answer]:
        return answered(queries, self._cache, self._bill, self._fetch)

    def _fetch(self, missing: Sequence[Query]) -> list[Answer]:
        out: list[Answer] = []
        batches = [missing[i : i + self._batch] for i in range(0, len(missing), self._batch)]
        for batch in track(batches, self._label, unit="batches"):
            answers = [Answer(text) for text in self._ask([query.messages for query in batch])]
            for query, answer in zip(batch, answers, strict=True):
                self._cache.put(query, answer)
            out += answers
        return out

    def bill(self) -> dict[str, int | float]:
        return self._bill.totals()
