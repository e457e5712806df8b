"""On a GPU the same code gives the same numbers: float32 as on the CPU, bfloat16 within its rounding of float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.invariants.test_training_step import rows, trainable
from tuneloop.engines import EngineConfig, create, generate
from tuneloop.models import load_model, open_bundle
from tuneloop.train.objectives import sft, total_weight
from tuneloop.types import Request, Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def loss(model: torch.nn.Module, *, fast: bool) -> float:
    objective = sft(model, padding_free=fast, share_prefixes=fast, label_smoothing=0.0)
    return float(objective(model, rows()).item()) / total_weight(rows())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "deepseek_v3"])
def test_float32_on_the_gpu_equals_the_cpu(arch: str) -> None:
    model = trainable(arch, "full")
    expected = loss(model, fast=False)
    assert loss(model.cuda(), fast=True) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_bfloat16_is_float32_within_its_rounding(arch: str) -> None:
    """bfloat16 keeps 8 bits: the flat form may be no further from float32 than the plain form in bfloat16 is."""
    model = trainable(arch, "full")
    exact = loss(model, fast=False)
    model = model.cuda().bfloat16()
    plain = abs(loss(model, fast=False) - exact)
    assert abs(loss(model, fast=True) - exact) <= max(2 * plain, 0.02)


def test_the_engine_answers_on_the_gpu_what_it_answers_on_the_cpu(tiny: Callable[..., Path]) -> None:
    folder = tiny("llama", "chatml")
    requests = [Request(str(i), tuple(range(20, 60 + 3 * i)), Sampling(max_tokens=8)) for i in range(5)]
    answers = []
    for device in ("cpu", "cuda"):
        engine = create(EngineConfig(name="transformers", device=device, dtype="float32"), open_bundle(folder))
        answers.append([a.token_ids for a in generate(engine, requests)])
        engine.close()
    assert answers[0] == answers[1]
    assert load_model(folder, device="cuda").device.type == "cuda"
