"""Each faster form of a layer gives the plain computation's loss and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.invariants.test_training_step import assert_equal, loss_and_gradients, rows, trainable
from tests.tiny import ARCHS, tiny_model
from tuneloop.train import TrainConfig, kernels
from tuneloop.train.methods import METHODS
from tuneloop.train.objectives import flat, head, sft

TRICKS = ["onednn", "adapters", "norms", "gates", "last layer", "head loss", "filling", "all"]


def only(trick: str, patch: pytest.MonkeyPatch) -> None:
    """Switch everything off but one trick."""
    if trick == "all":
        patch.setattr(kernels, "onednn_is_faster", lambda: True)
        patch.setattr(kernels, "SMALLEST", 0)
        return
    forms = {"adapters": "_adapted", "norms": "_norm", "gates": "_gated", "onednn": "_linear"}
    of_class = kernels._form

    def one_form(module: torch.nn.Module) -> Callable[..., Tensor] | None:
        form = of_class(module)
        return form if form is not None and form.__name__ == forms.get(trick) else None

    patch.setattr(kernels, "_form", one_form)
    patch.setattr(kernels, "onednn_is_faster", lambda: trick == "onednn")
    patch.setattr(kernels, "SMALLEST", 0)
    patch.setattr(flat, "onednn_is_faster", lambda: trick == "filling")
    if trick != "last layer":
        patch.setattr(flat, "narrows", lambda _: False)
    if trick != "head loss":
        patch.setattr(flat, "usual", lambda *_: False)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("trick", TRICKS)
def test_each_trick_gives_the_plain_loss_and_gradients(
    trick: str, arch: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = trainable(arch, method), [rows()]
    plain = loss_and_gradients(model, batch, padding_free=False)
    only(trick, monkeypatch)
    assert_equal(loss_and_gradients(model, batch), plain)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_layer_of_a_known_architecture_has_its_faster_form(arch: str) -> None:
    model = trainable(arch, "lora")
    sft(model, padding_free=True, share_prefixes=True, label_smoothing=0.0)
    kinds = {type(m).__name__ for m in model.modules() if "forward" not in m.__dict__}
    assert not [k for k in kinds if k.endswith(("RMSNorm", "MLP")) or k == "Linear"]
    assert kernels.narrows(model)


def test_the_oracle_runs_the_layers_as_they_are_written() -> None:
    model = trainable("llama", "lora")
    sft(model, padding_free=True, share_prefixes=True, label_smoothing=0.0)
    sft(model, padding_free=False, share_prefixes=True, label_smoothing=0.0)
    assert not [m for m in model.modules() if "forward" in m.__dict__]


@pytest.mark.parametrize("state", ["switched off", "merged", "dropout"])
def test_an_adapter_in_an_unusual_state_runs_as_it_is_written(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: False)  # the layer below the adapter rounds as it did
    config = TrainConfig.model_validate({"method": "lora", "lora": {"dropout": 0.5 if state == "dropout" else 0.0}})
    model: Any = METHODS["lora"](tiny_model("llama", vocab_size=300), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(5, 64)
    if state == "switched off":
        layer.enable_adapters(False)
    if state == "merged":
        layer.merge()

    def run() -> Tensor:
        torch.manual_seed(7)
        out: Tensor = layer.train()(x)
        return out

    expected = run()
    kernels.apply(model)
    assert torch.equal(run(), expected)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunks_and_blocks_of_the_head_loss_give_the_plain_gradients(
    method: str, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = trainable("llama", method), [rows()]
    plain = loss_and_gradients(model, batch, padding_free=False, label_smoothing=smoothing)
    monkeypatch.setattr(head, "CHUNK", 5)
    monkeypatch.setattr(head, "BLOCK", 64)  # 300 tokens: four blocks and a rest
    assert_equal(loss_and_gradients(model, batch, label_smoothing=smoothing), plain)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_forms_of_the_head_loss_are_the_same_function(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "BLOCK", 7)
    torch.manual_seed(0)
    hidden_NC, head_VC = torch.randn(11, 6, dtype=torch.float64), torch.randn(23, 6, dtype=torch.float64)
    target_N, weight_N = torch.randint(0, 23, (11,)), torch.rand(11, dtype=torch.float64)
    wanted = head.Wanted(target_N, weight_N, smoothing, True, True)
    for ours, plain in zip(
        head._by_blocks(head_VC, hidden_NC, wanted), head._at_once(head_VC, hidden_NC, wanted), strict=True
    ):
        assert isinstance(ours, Tensor)
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)  # the other form's logits are float32


def test_a_prediction_that_is_nearly_certain_keeps_its_gradient() -> None:
    """In float32, 1 - p of p = 1 - 1e-9 is 0; the sum of the others is not."""
    head_VC, hidden_NC = torch.eye(4) * 21, torch.eye(4)[:1]
    wanted = head.Wanted(torch.tensor([0]), torch.ones(1), 0.0, True, False)
    found = head._by_blocks(head_VC, hidden_NC, wanted)
    others = 3 * math.exp(-21)
    assert found.hidden_gradient_NC is not None
    assert found.hidden_gradient_NC[0, 0].item() == pytest.approx(-21 * others / (1 + others), rel=1e-5)


def test_a_tied_head_gets_the_gradient_of_both_its_uses() -> None:
    model = METHODS["full"](tiny_model("llama", vocab_size=300, tie_word_embeddings=True), TrainConfig(method="full"))
    plain = loss_and_gradients(model, [rows()], padding_free=False)
    assert_equal(loss_and_gradients(model, [rows()]), plain)


@pytest.mark.parametrize("name", ["Norm", "Gate", "Linear", "Adapted"])
def test_the_derivative_is_the_finite_difference(name: str) -> None:
    torch.manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    frozen = numbers(5, 4).detach()
    cases: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
        "Norm": (lambda x, w: kernels.Norm.apply(x, w, 1e-5), (numbers(2, 3, 4), numbers(4))),
        "Gate": (kernels.Gate.apply, (numbers(3, 4), numbers(3, 4))),
        "Linear": (kernels.Linear.apply, (numbers(2, 3, 4), numbers(5, 4), numbers(5))),
        "Adapted": (
            lambda x, a, b: kernels.Adapted.apply(x, frozen, None, a, b, 2.0),
            (numbers(2, 3, 4), numbers(2, 4), numbers(5, 2)),
        ),
    }
    function, inputs = cases[name]
    assert torch.autograd.gradcheck(function, inputs)
