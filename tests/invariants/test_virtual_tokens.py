"""Prefix and prompt tuning in a flat row equal PEFT's own padded computation; their bundles load, serve and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import Killed, assert_same_bits, fit_tiny, losses_of, some_plan, some_rows
from tests.tiny import ARCHS, tiny_model
from tuneloop.engines import EngineConfig, create, generate
from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import load_model, load_tokenizer, open_bundle, save_adapter_bundle
from tuneloop.train import TrainConfig
from tuneloop.train.methods import METHODS
from tuneloop.train.objectives import sft, total_weight
from tuneloop.train.sections import CheckpointConfig, MemoryConfig, PrefixConfig
from tuneloop.types import Request, Sampling

CASES = [("prompt", arch) for arch in ARCHS] + [("prefix", "llama"), ("prefix", "qwen2")]
ROWS = some_rows(8)


def config(method: str, **more: Any) -> TrainConfig:
    return TrainConfig(**{"method": method, "prefix": PrefixConfig(tokens=5), "trackers": ()} | more)


def prepared(method: str, arch: str, model: Any = None) -> Any:
    torch.manual_seed(0)
    return METHODS[method](model or tiny_model(arch, vocab_size=300, layers=3), config(method))  # type: ignore[arg-type]


def loss_and_gradient(model: Any, **kind: Any) -> tuple[float, torch.Tensor]:
    objective = sft(model, **({"padding_free": True, "share_prefixes": True, "label_smoothing": 0.0} | kind))
    model.zero_grad()
    loss = objective(model, ROWS) / total_weight(ROWS)
    loss.backward()
    (weight,) = [p for p in model.parameters() if p.requires_grad]
    return loss.item(), weight.grad.clone()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("method", "arch"), CASES)
def test_flat_equals_pefts_padded_forward(method: str, arch: str, share: bool) -> None:
    model = prepared(method, arch)
    expected, gradient = loss_and_gradient(model, padding_free=False)
    loss, ours = loss_and_gradient(model, share_prefixes=share)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert gradient.norm() > 1e-3, "a comparison of zeros proves nothing"
    assert (ours - gradient).norm() <= 1e-4 * gradient.norm()


@pytest.mark.parametrize(("method", "arch"), [("prompt", "llama"), ("prefix", "llama")])
@pytest.mark.parametrize("tile_area", [1, 10**9])
def test_tiling_does_not_change_the_numbers(
    method: str, arch: str, tile_area: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepared(method, arch)
    expected, _ = loss_and_gradient(model, padding_free=False)
    monkeypatch.setattr("tuneloop.models.flat.TILE_AREA", tile_area)
    assert loss_and_gradient(model)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("method", "arch"), CASES)
def test_whole_runs_agree_with_padded_ones_and_learn(method: str, arch: str, tmp_path: Path) -> None:
    plan = some_plan(8, steps=8)
    for name, fast in (("fast", True), ("plain", False)):
        settings = config(method, learning_rate=1e-2, memory=MemoryConfig(padding_free=fast))
        fit_tiny(prepared(method, arch), settings, ROWS, plan, tmp_path / name)
    losses = losses_of(tmp_path / "fast")
    assert losses == pytest.approx(losses_of(tmp_path / "plain"), abs=1e-5)
    assert len(losses) == 8


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_interrupted_is_bit_identical(method: str, tmp_path: Path) -> None:
    settings = config(method, checkpoint=CheckpointConfig(every_steps=2))
    plan = some_plan(8, steps=6)
    whole = fit_tiny(prepared(method, "llama"), settings, ROWS, plan, tmp_path / "whole")
    with pytest.raises(Killed):
        fit_tiny(prepared(method, "llama"), settings, ROWS, plan, tmp_path / "killed", die_at_call=3)
    assert_same_bits(fit_tiny(prepared(method, "llama"), settings, ROWS, plan, tmp_path / "killed"), whole)


def test_only_the_virtual_tokens_train() -> None:
    for method, size in (("prefix", 5 * 3 * 2 * 2 * 16), ("prompt", 5 * 64)):
        trained = [p.numel() for p in prepared(method, "llama").parameters() if p.requires_grad]
        assert trained == [size]


def test_the_prefix_begins_with_what_real_tokens_give() -> None:
    """Attending to the prefix is attending to its tokens: the start is the base model with them in front."""
    model = prepared("prefix", "llama")
    torch.manual_seed(0)
    front = torch.randint(0, 300, (1, 5))
    tokens = torch.tensor([ROWS[0].input_ids])
    base = tiny_model("llama", vocab_size=300, layers=3)
    with torch.no_grad():
        expected = base(input_ids=torch.cat([front, tokens], 1)).logits[:, 5:]
        torch.testing.assert_close(model(input_ids=tokens).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", ["deepseek_v2", "deepseek_v3"])
def test_a_prefix_of_latent_attention_is_refused_with_the_way_out(arch: str) -> None:
    with pytest.raises(ConfigError, match="latent") as error:
        prepared("prefix", arch)
    assert "method: prompt" in (error.value.hint or "")


def bundle_of(method: str, arch: str, tiny: Callable[..., Path], tmp_path: Path) -> Path:
    base = tiny(arch, "chatml", layers=3)
    model = prepared(method, arch, load_model(base))
    with torch.no_grad():  # away from the start, so that a lost adapter would show
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.mul_(3.0)
    return save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {}).path


def naive(model: Any, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Greedy, one whole padded forward pass of PEFT's for every token."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize(("method", "arch"), CASES)
def test_the_engine_serves_what_pefts_model_says(
    method: str, arch: str, prefix_cache: bool, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = bundle_of(method, arch, tiny, tmp_path)
    peft = load_model(path, merge=False)
    prompts = [(*range(20, 44), *range(60 + i, 63 + 2 * i)) for i in range(4)] + [(7, 8, 9)]
    requests = [Request(str(i), p, Sampling(max_tokens=6)) for i, p in enumerate(prompts)]
    settings = EngineConfig(name="transformers", max_running=3, prefix_cache=prefix_cache, device="cpu")
    engine = create(settings, open_bundle(path))
    answers = [a.token_ids for a in generate(engine, requests, concurrency=4)]
    assert answers == [naive(peft, p, 6) for p in prompts]
    base = load_model(tiny(arch, "chatml", layers=3))
    assert answers != [naive(base, p, 6) for p in prompts], "the adapter changes nothing, so this proves nothing"
    (scores,) = engine.score([(prompts[0], 1)])  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = peft(input_ids=torch.tensor([prompts[0]]), use_cache=False).logits[0, -len(prompts[0]) :]
    expected = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(prompts[0][1:])[:, None])[:, 0]
    assert scores == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_a_bundle_of_virtual_tokens_cannot_be_merged(method: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    path = bundle_of(method, "llama", tiny, tmp_path)
    with pytest.raises(ModelError, match="5 virtual tokens") as error:
        load_model(path, merge=True)
    assert "engine transformers" in (error.value.hint or "")


def test_llamacpp_refuses_virtual_tokens_with_a_hint(tiny: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    path = bundle_of("prompt", "llama", tiny, tmp_path)
    with pytest.raises(ModelError, match="GGUF cannot hold") as error:
        create(EngineConfig(name="llamacpp"), open_bundle(path))
    assert "engine.name: transformers" in (error.value.hint or "")
