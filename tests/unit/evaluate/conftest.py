"""A model whose answers are known: characters are tokens, and a table says what is answered to what."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tuneloop.engines import Capabilities
from tuneloop.types import Message, Record, Request, TokenEvent

STOP = 0
ABLE = Capabilities(score=True, batch_invariant=True)


class CharChat:
    """What evaluate uses of ``tuneloop.chat.Chat``; a token is a code point, ``think`` opens a reasoning block."""

    stop_ids = (STOP,)

    def __init__(self, think: bool = False) -> None:
        self.think = think

    def render(self, messages: Sequence[Message], *, generation: bool, tools: str | None = None) -> str:
        text = "\n".join(f"{m.role}: {m.content}" for m in messages) + "\nassistant: "
        return text + ("<think>\n" if self.think else "")

    def prompt_ids(self, messages: Sequence[Message], tools: str | None = None) -> tuple[int, ...]:
        return tuple(map(ord, self.render(messages, generation=True)))

    def answer_ids(self, message: Message, prompt: str) -> tuple[int, ...]:
        return (*map(ord, message.content), STOP)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(map(chr, ids))

    def split_reasoning(self, text: str, prompt: str) -> tuple[str | None, str]:
        reasoning, closed, answer = text.partition("</think>")
        return (reasoning, answer) if closed else (None, text)


@dataclass
class TableEngine:
    """Answers by looking the question up; ``asked`` records who was asked and how many were open at that moment."""

    answers: Mapping[str, str]
    capabilities: Capabilities = ABLE
    name: str = "table"
    fail: frozenset[str] = frozenset()
    die_after: int = 10**9
    asked: list[tuple[str, int]] = field(default_factory=list)
    scored: int = 0
    _queue: deque[Request] = field(default_factory=deque)

    def submit(self, request: Request) -> None:
        self._queue.append(request)
        self.asked.append((request.id, len(self._queue)))

    def poll(self, timeout_s: float) -> list[TokenEvent]:
        request = self._queue.popleft()
        if self.die_after == 0:
            raise KeyboardInterrupt
        self.die_after -= 1
        question = "".join(map(chr, request.prompt_ids)).split("user: ")[1].split("\n")[0]
        if question in self.fail:
            return [TokenEvent(request.id, finish="error", error="it is broken")]
        time.sleep(0.0005)
        ids = tuple(map(ord, self.answers[question]))
        cut = ids[: request.sampling.max_tokens]
        return [TokenEvent(request.id, cut), TokenEvent(request.id, finish="length" if len(cut) < len(ids) else "stop")]

    def cancel(self, request_id: str) -> None:
        self._queue = deque(r for r in self._queue if r.id != request_id)

    def score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        self.scored += len(sequences)
        return [[-0.5 if t != STOP else -1.0 for t in ids[k:]] for ids, k in sequences]

    def close(self) -> None: ...


@dataclass(frozen=True)
class FakeBundle:
    path: Path = Path("model")
    precision: str = "float32"
    version: str = "abc123"


def record(i: int, question: str, answer: str, label: str | None) -> Record:
    return Record(f"r{i}", (Message("user", question), Message("assistant", answer)), label, f"raw.csv:{i}")


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """``folder(test=[records], validation=[...], train=[...])`` -> a data folder."""

    def make(**splits: list[Record]) -> Path:
        at = tmp_path / "data"
        at.mkdir(exist_ok=True)
        for split in ("train", "validation", "test"):
            lines: list[dict[str, Any]] = [r.to_json() for r in splits.get(split, [])]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (at / f"{split}.jsonl").write_text(text, encoding="utf-8")
        return at

    return make
