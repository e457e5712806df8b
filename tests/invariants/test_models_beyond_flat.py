"""Models that do more than a flat row knows are computed the way they are written, or refused: never something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.invariants.test_fast_engine_is_naive_generate import naive, prompts
from tests.tiny_odd import BEYOND_FLAT, WINDOWS, odd_folder
from tuneloop.engines import EngineConfig, create, generate
from tuneloop.errors import ModelError
from tuneloop.models import beyond_flat, load_model, open_bundle
from tuneloop.train import TrainConfig
from tuneloop.train.objectives import create as objective
from tuneloop.train.sections import MemoryConfig
from tuneloop.types import Example, Request, Sampling

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def examples() -> list[Example]:
    rows = prompts()[:4]
    return [Example(str(i), r, tuple(k > 1 for k in range(len(r)))) for i, r in enumerate(rows) if len(r) > 3]


@pytest.mark.parametrize("name", BEYOND_FLAT)
def test_rows_are_never_flattened_and_padding_computes_what_each_row_alone_gives(name: str, tmp_path: Path) -> None:
    model = load_model(odd_folder(name, tmp_path), device="cpu")
    assert beyond_flat(model)
    with pytest.raises(ModelError) as refused:
        objective(model, TrainConfig())
    assert refused.value.hint == "set train.memory.padding_free=false for this model"
    plain = objective(model, TrainConfig(memory=MemoryConfig(padding_free=False)))
    with torch.no_grad():
        together, alone = plain(model, examples()).item(), sum(plain(model, [e]).item() for e in examples())
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("name", [*BEYOND_FLAT, *WINDOWS])
def test_the_engine_answers_and_scores_what_recomputing_everything_gives(name: str, tmp_path: Path) -> None:
    folder = odd_folder(name, tmp_path)
    model = load_model(folder, device="cpu")
    engine = create(EngineConfig(name="transformers", max_running=4, device="cpu"), open_bundle(folder))
    requests = [Request(f"r{i}", p, Sampling(max_tokens=4 + i % 5)) for i, p in enumerate(prompts())]
    pair = prompts()[0], 3
    try:
        answers = generate(engine, requests, concurrency=6)
        (scores,) = engine.score([pair])
    finally:
        engine.close()
    assert len({answer.token_ids for answer in answers}) > 3, "answers that are all alike prove nothing"
    for request, answer in zip(requests, answers, strict=True):
        assert list(answer.token_ids) == naive(model, request.prompt_ids, request.sampling.max_tokens)
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([pair[0]]), use_cache=False).logits[0].log_softmax(-1)
    assert scores == pytest.approx([float(logp[i - 1, pair[0][i]]) for i in range(3, len(pair[0]))], abs=1e-4)
