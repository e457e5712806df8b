from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import tiny_model
from tests.unit.train.runs import VOCABULARY, fit, loop_of, rows, settings
from tuneloop.models import causal_model, quiet
from tuneloop.rundir import RunDir
from tuneloop.train.gauge import Gauge, cost_of, matmul_flops
from tuneloop.train.methods import prepare
from tuneloop.types import Example


def counted(model: torch.nn.Module, tokens: int) -> float:
    """Oracle: PyTorch's own counter over a forward and a backward pass, with attention that computes the whole square."""
    causal_model(model).set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.arange(3, 3 + tokens)[None]).logits.sum().backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_operations_are_what_pytorch_counts(arch: str, method: str) -> None:
    with quiet():
        model = prepare(tiny_model(arch, vocab_size=VOCABULARY, layers=6), settings(method=method))  # type: ignore[arg-type]
    # Every token has a label here, and each query meets every key. The formula leaves out that the first layer's input
    # needs no gradient when the embeddings are frozen (at six layers 4 % of all).
    assert cost_of(model).step(40, 40, 40 * 40) == pytest.approx(counted(model, 40), rel=0.05)


def test_full_training_costs_six_a_weight_and_adapters_four() -> None:
    full = cost_of(prepare(tiny_model("llama", vocab_size=VOCABULARY), settings(method="full")))
    # q 64x64, k and v 64x32, o 64x64, gate, up, down 64x128: 36,864 weights a layer, two layers
    assert full.per_token == 6 * 2 * 36864
    assert full.per_label == 6 * VOCABULARY * 64
    assert full.per_pair == 2 * 4 * (16 + 16) * 3 * 2  # heads, widths of key and value, forward and backward, layers
    lora = cost_of(prepare(tiny_model("llama", vocab_size=VOCABULARY), settings(method="lora")))
    adapters = 4 * 2 * (2 * 128 + 2 * 96 + 3 * 192)  # rank 4, inputs and outputs of q o, k v, gate up down
    assert lora.per_token == 4 * 2 * 36864 + 6 * adapters
    assert lora.per_label == 4 * VOCABULARY * 64


def test_only_the_experts_that_a_token_meets_count() -> None:
    model = prepare(tiny_model("deepseek_v3", vocab_size=VOCABULARY), settings(method="full"))
    stored = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 3)
    assert stored
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n)
    router = sum(p.numel() for n, p in model.named_parameters() if n.endswith("mlp.gate.weight"))  # frozen
    assert cost_of(model).per_token == 6 * matrices - 2 * router + 6 * stored / 2  # two of four experts


def test_shared_beginnings_count_once(tmp_path: Path) -> None:
    loop = loop_of(settings(), tmp_path)
    head = tuple(range(3, 43))  # 48 tokens in all: nothing is filled up
    twins = [Example(str(i), (*head, 40 + i, 50), (False,) * 41 + (True,)) for i in range(4)]
    with Gauge(loop.model) as gauge:
        loop.objective(loop.model, twins)
        assert gauge.tokens == 40 + 4 * 2
        assert float(gauge.pairs) == 40 * 41 / 2 + 4 * (41 + 42)


def test_validation_is_no_part_of_a_step(tmp_path: Path) -> None:
    loop = loop_of(settings(), tmp_path)
    with Gauge(loop.model) as gauge, torch.no_grad():
        loop.objective(loop.model, rows(2))
        assert gauge.tokens == 0


def test_every_step_has_utilisation_and_memory(tmp_path: Path) -> None:
    fit(settings(), tmp_path)
    found = [line for line in RunDir(tmp_path).metrics() if "loss" in line]
    assert len(found) == 12
    assert all(0 < line["mfu"] < 1.5 for line in found)
    assert all(50e6 < line["memory_bytes"] < 50e9 for line in found)


def test_utilisation_is_operations_over_time_and_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_of(settings(), tmp_path)
    monkeypatch.setattr(Gauge, "peak_flops", lambda self: 1e9)
    n = 48  # nothing is filled up
    example = Example("a", tuple(range(3, 3 + n)), (False,) * (n - 4) + (True,) * 4)
    with Gauge(loop.model) as gauge:
        loop.objective(loop.model, [example])
        found = gauge.read([[example]], spent_s=0.5)["mfu"]
    assert found == pytest.approx(cost_of(loop.model).step(n, 4, n * (n + 1) / 2) / 0.5 / 1e9, abs=1e-4)


def test_the_peak_is_measured_once() -> None:
    assert matmul_flops("cpu", torch.float32) == matmul_flops("cpu", torch.float32) > 1e9


def test_the_rest_is_forecast_from_the_steps_after_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gauge = Gauge(loop_of(settings(), tmp_path).model)
    example = Example("a", (5,) * 10, (True,) * 10)
    for spent in (9.0, 1.0, 1.0):
        gauge.read([[example]], spent)
        gauge.forecast(lambda: [10, 20, 30])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "measured" in x]
    assert "10 tokens/s, 1.00 s a step; about 6s for the other 3 steps" in line
