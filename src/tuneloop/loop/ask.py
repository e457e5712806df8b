"""Somebody to ask: the project's model behind an engine, for makers that need one. It is loaded when it is first asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneloop import chat, engines, models
from tuneloop.engines import EngineConfig
from tuneloop.errors import ServeError
from tuneloop.types import Message, Request, Sampling

_MAX_TOKENS, _TEMPERATURE, _TOP_P = 1024, 0.7, 0.95


class Asked:
    """Answers conversations with a model. The same conversation gets the same answer.

    Args:
        model: Folder of the model.
        template: Chat template instead of the model's own.
    """

    def __init__(self, model: Path, engine: EngineConfig, template: str | None) -> None:
        self._model, self._config, self._template = model, engine, template
        self._engine: engines.Engine | None = None
        self._chat: Any = None

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        engine = self._open()
        requests = [self._request(k, turns) for k, turns in enumerate(conversations)]
        out: list[str] = []
        for turns, response in zip(conversations, engines.generate(engine, requests, label="asking"), strict=True):
            if response.error:
                raise ServeError(f"the model gave no answer: {response.error}", where="data.makers")
            prompt = self._chat.render(_messages(turns), generation=True)
            out.append(self._chat.split_reasoning(self._chat.decode(response.token_ids), prompt)[1].strip())
        return out

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _open(self) -> engines.Engine:
        if self._engine is None:
            bundle = models.open_bundle(self._model)
            self._chat = chat.Chat(models.load_tokenizer(bundle), template=self._template)
            self._engine = engines.create(self._config, bundle)
        return self._engine

    def _request(self, number: int, turns: Sequence[Mapping[str, str]]) -> Request:
        said = _messages(turns)
        text = json.dumps([[m.role, m.content] for m in said], ensure_ascii=False)
        seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
        sampling = Sampling(_MAX_TOKENS, _TEMPERATURE, _TOP_P, seed=seed)
        return Request(f"ask-{number}", self._chat.prompt_ids(said), sampling, self._chat.stop_ids)


def _messages(turns: Sequence[Mapping[str, str]]) -> list[Message]:
    return [Message(turn["role"], turn["content"]) for turn in turns]  # type: ignore[arg-type]
