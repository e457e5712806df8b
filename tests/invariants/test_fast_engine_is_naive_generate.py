"""The transformers engine (continuous batching, shared prefixes, own cache) gives what ``generate`` gives, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny import ARCHS
from tuneloop.engines import EngineConfig, create, generate
from tuneloop.models import load_model, open_bundle
from tuneloop.types import Request, Sampling


def prompts(vocabulary: int = 500) -> list[tuple[int, ...]]:
    """Two families with a common beginning, one that is another's beginning, one alone, one twice."""
    rng = random.Random(4)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, vocabulary) for _ in range(n))

    first, second = tokens(24), tokens(40)
    out = [first + tokens(n) for n in (3, 9, 1, 17)] + [second + tokens(n) for n in (5, 2)]
    return [*out, first + tokens(3), second, tokens(1), out[0]]


def naive(model: torch.nn.Module, prompt: tuple[int, ...], new: int) -> list[int]:
    """Greedy decoding by running the whole sequence again for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(new):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_greedy_answers_are_those_of_recomputing_everything(
    arch: str, prefix_cache: bool, tiny: Callable[..., Path]
) -> None:
    folder = tiny(arch, "chatml")
    model = load_model(folder, device="cpu")
    requests = [Request(f"r{i}", p, Sampling(max_tokens=4 + i % 5)) for i, p in enumerate(prompts())]
    engine = create(
        EngineConfig(name="transformers", max_running=4, prefix_cache=prefix_cache, device="cpu"), open_bundle(folder)
    )
    try:
        answers = generate(engine, requests, concurrency=6)
    finally:
        engine.close()
    assert len({answer.token_ids for answer in answers}) > 3, "answers that are all alike prove nothing"
    for request, answer in zip(requests, answers, strict=True):
        assert list(answer.token_ids) == naive(model, request.prompt_ids, request.sampling.max_tokens)
        assert answer.finish == "length"


@pytest.mark.parametrize("arch", ARCHS)
def test_scores_are_the_log_probabilities_of_the_plain_model(arch: str, tiny: Callable[..., Path]) -> None:
    folder = tiny(arch, "chatml")
    model = load_model(folder, device="cpu")
    engine = create(EngineConfig(name="transformers", device="cpu"), open_bundle(folder))
    pairs = [(p, 1 + i % (len(p) - 1)) for i, p in enumerate(prompts()) if len(p) > 2]
    try:
        scores = engine.score(pairs)
    finally:
        engine.close()
    for (ids, first), got in zip(pairs, scores, strict=True):
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        assert got == pytest.approx([float(logp[i - 1, ids[i]]) for i in range(first, len(ids))], abs=1e-4)
