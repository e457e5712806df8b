"""Adapters of every kind on every architecture: the fast step is the plain one, and all forms of the model agree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.invariants.test_fast_engine_is_naive_generate import naive, prompts
from tests.invariants.test_training_step import assert_equal, loss_and_gradients, rows
from tests.tiny import ARCHS, tiny_model
from tuneloop.engines import EngineConfig, create, generate
from tuneloop.models import load_model, load_tokenizer, open_bundle, quiet, save_adapter_bundle
from tuneloop.rundir import RunDir
from tuneloop.train import LoraConfig, TrainConfig
from tuneloop.train.loop import fit
from tuneloop.train.methods import METHODS, merge
from tuneloop.train.objectives import sft
from tuneloop.train.plan import BatchPlan
from tuneloop.train.sections import CheckpointConfig
from tuneloop.types import Request, Sampling

MIXTURES = ("deepseek_v2", "deepseek_v3")
IDS = torch.arange(5, 45)[None]


def config(method: str, arch: str, **lora: Any) -> TrainConfig:
    """DoRA cannot adapt expert layers, so there it takes the attention."""
    narrow = {"targets": "attention"} if method == "dora" and arch in MIXTURES else {}
    return TrainConfig(method=method, lora=LoraConfig(**({"rank": 4, "alpha": 8} | narrow | lora)))  # type: ignore[arg-type]


def adapted(model: torch.nn.Module, settings: TrainConfig, *, started: bool = True) -> torch.nn.Module:
    """With ``started``, B is random: at B = 0 nothing could be told apart."""
    torch.manual_seed(1)
    model = METHODS[settings.method](model, settings)
    if started:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
    return model.eval()


def fresh(arch: str) -> Any:
    return tiny_model(arch, vocab_size=300, layers=3)  # type: ignore[arg-type]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("arch", ARCHS)
def test_flat_rows_equal_padded(arch: str, method: str) -> None:
    model, batch = adapted(fresh(arch), config(method, arch)), [rows()]
    plain = loss_and_gradients(model, batch, padding_free=False)
    assert_equal(loss_and_gradients(model, batch, share_prefixes=False), plain)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("arch", ARCHS)
def test_shared_prefixes_equal_padded(arch: str, method: str) -> None:
    model, batch = adapted(fresh(arch), config(method, arch)), [rows()]
    plain = loss_and_gradients(model, batch, padding_free=False)
    assert_equal(loss_and_gradients(model, batch), plain)


@pytest.mark.parametrize("arch", MIXTURES)
def test_expert_adapters_equal_those_of_peft(arch: str) -> None:
    """The thin matrices beside the experts give what PEFT's sums of weights give."""
    model, batch = adapted(fresh(arch), config("lora", arch)), [rows()]
    fast = loss_and_gradients(model, batch)
    changed = [m for name, m in model.named_modules() if name.endswith(".experts") and "forward" in vars(m)]
    assert len(changed) == 2, "one stack of experts in each layer after the first"
    for module in changed:
        del module.forward
    assert_equal(fast, loss_and_gradients(model, batch))


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "lora+"])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_start_is_the_base_model(arch: str, method: str) -> None:
    """To the bit, but for routed experts, whose rows are summed in another order."""
    model = adapted(fresh(arch), config(method, arch), started=False)
    rounding = 1e-6 if arch in MIXTURES else 0.0
    torch.testing.assert_close(logits(model), logits(fresh(arch)), atol=rounding, rtol=0)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("arch", ARCHS)
def test_merged_equals_unmerged(arch: str, method: str) -> None:
    model = adapted(fresh(arch), config(method, arch))
    expected = logits(model)
    assert (expected - logits(fresh(arch))).abs().max() > 0.01, "an adapter that does nothing proves nothing"
    torch.testing.assert_close(logits(merge(model)), expected, atol=1e-5, rtol=0)


@pytest.fixture(
    params=[(a, m) for a in ARCHS for m in ("lora", "rslora", "dora", "lora of the last layer")], ids="-".join
)
def saved(request: pytest.FixtureRequest, tiny: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path, Any]:
    """Folders of an adapter and its base, and the logits it had when it was saved."""
    arch, method = request.param
    name, _, last = method.partition(" of ")
    base = Path(shutil.copytree(tiny(arch, "chatml"), tmp_path / "base"))
    model = adapted(load_model(base), config(name, arch, last_layers=1 if last else None))
    save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {})
    return tmp_path / "adapter", base, logits(model)


def test_saved_and_loaded_equals_trained(saved: tuple[Path, Path, Any]) -> None:
    assert torch.equal(logits(load_model(open_bundle(saved[0]), merge=False)), saved[2])


def test_plain_peft_loads_what_was_trained(saved: tuple[Path, Path, Any]) -> None:
    adapter, base, expected = saved
    with quiet():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ARCHS)
def test_gradients_reach_every_adapter(arch: str) -> None:
    model = adapted(fresh(arch), config("lora", arch))
    loss_and_gradients(model, [rows()])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("arch", MIXTURES)
def test_all_linear_reaches_attention_first_layer_shared_and_routed_experts_but_no_router(arch: str) -> None:
    model = adapted(fresh(arch), config("lora", arch))
    reached = {
        n.split(".lora_A")[0].removeprefix("base_model.model.model.")
        for n, _ in model.named_parameters()
        if "lora_A" in n
    }
    attention = {"kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
    attention |= {"q_proj"} if arch == "deepseek_v2" else {"q_a_proj", "q_b_proj"}
    dense = {"gate_proj", "up_proj", "down_proj"}
    expected = {f"layers.{i}.self_attn.{n}" for i in range(3) for n in attention}
    expected |= {f"layers.0.mlp.{n}" for n in dense}
    expected |= {f"layers.{i}.mlp.shared_experts.{n}" for i in (1, 2) for n in dense}
    expected |= {f"layers.{i}.mlp.experts{n}" for i in (1, 2) for n in ("", ".base_layer")}
    assert reached == expected


@pytest.mark.parametrize("arch", MIXTURES)
def test_unmerged_experts_are_served_as_they_were_trained(arch: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny(arch, "chatml")
    model = adapted(load_model(base), config("lora", arch))
    bundle = save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {})
    requests = [Request(f"r{i}", p, Sampling(max_tokens=4)) for i, p in enumerate(prompts())]
    engine = create(EngineConfig(name="transformers", merge_adapter=False, max_running=4, device="cpu"), bundle)
    try:
        answers = generate(engine, requests, concurrency=4)
    finally:
        engine.close()
    expected = [tuple(naive(model, r.prompt_ids, 4)) for r in requests]
    assert expected != [tuple(naive(load_model(base), r.prompt_ids, 4)) for r in requests]
    assert [a.token_ids for a in answers] == expected


class Stopped(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("method", ["lora", "lora+"])
def test_a_stopped_run_with_experts_ends_with_the_same_weights(method: str, tmp_path: Path) -> None:
    examples, plan = rows(), BatchPlan(tuple((tuple(range(s, s + 5)),) for s in range(4)), (4,))
    settings = config(method, "deepseek_v3").model_copy(
        update={"trackers": (), "checkpoint": CheckpointConfig(every_steps=1)}
    )

    def run(name: str, stop_after: int) -> dict[str, torch.Tensor]:
        model = adapted(fresh("deepseek_v3"), settings)
        objective = sft(model, padding_free=True, share_prefixes=True, label_smoothing=0.0)
        calls = iter(range(100))

        def stopping(model: torch.nn.Module, batch: Any) -> torch.Tensor:
            if next(calls) == stop_after:
                raise Stopped
            return objective(model, batch)

        (tmp_path / name).mkdir(exist_ok=True)
        fit(model, stopping, examples, [], plan, settings, RunDir(tmp_path / name))
        return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    straight = run("straight", 99)
    with pytest.raises(Stopped):
        run("stopped", 2)
    resumed = run("stopped", 99)
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())
