"""Compiled layers compute the same losses and the same weights, and stay only where they are faster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.runs import assert_same_bits, fit_tiny, losses_of, some_plan, some_rows
from tests.tiny import Arch, tiny_model
from tuneloop.errors import ConfigError, ModelError
from tuneloop.train import TrainConfig, compiled
from tuneloop.train.methods import METHODS
from tuneloop.train.objectives import create
from tuneloop.train.sections import ValidationConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:The .grad attribute:UserWarning",
    "ignore:Torchinductor does not support:UserWarning",
)
"""PyTorch's own, while it traces and compiles."""
ROWS, PLAN = some_rows(14), some_plan(14, steps=6)


@pytest.fixture(autouse=True)
def _programs_of_its_own() -> Iterator[None]:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are traced, and run as they were traced: seconds and not a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


def config(method: str, compile: str, *, checkpointing: str = "off", **more: Any) -> TrainConfig:
    memory = {"compile": compile, "checkpointing": checkpointing}
    common = {"learning_rate": 1e-3, "trackers": (), "lora": {"rank": 4}, "checkpoint": {"every_steps": 2}}
    return TrainConfig.model_validate({"method": method, "memory": memory, **common, **more})


def run(
    arch: Arch, settings: TrainConfig, folder: Path, around: Callable[[Any], Any] = lambda objective: objective
) -> dict[str, torch.Tensor]:
    model = prepared(arch, settings)

    def wrap(objective: Any) -> Any:
        objective = around(objective)
        compiled.arrange(model, objective, ROWS, PLAN, settings, folder)
        return objective

    return fit_tiny(model, settings, ROWS, PLAN, folder, wrap=wrap, validation=some_rows(3, seed=2))


def prepared(arch: Arch, settings: TrainConfig) -> Any:
    model = tiny_model(arch, vocab_size=300, layers=4)
    torch.manual_seed(5)
    return METHODS[settings.method](model, settings)


def assert_equal_runs(arch: Arch, folder: Path, method: str, **more: Any) -> None:
    ours = run(arch, config(method, "on", **more), folder / "compiled")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    expected = run(arch, config(method, "off", **more), folder / "plain")
    assert losses_of(folder / "compiled") == pytest.approx(losses_of(folder / "plain"), abs=2e-5)
    for name, weight in expected.items():
        assert (ours[name] - weight).norm() <= 1e-3 * max(1.0, weight.norm()), name


@pytest.mark.usefixtures("without_a_compiler")
@pytest.mark.parametrize(("method", "checkpointing"), [("lora", "off"), ("full", "on")])
def test_layers_traced_for_all_shapes_train_the_same(method: str, checkpointing: str, tmp_path: Path) -> None:
    assert_equal_runs("llama", tmp_path, method, checkpointing=checkpointing)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "freeze", "prefix"])
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_compiled_layers_train_the_same(arch: Arch, method: str, tmp_path: Path) -> None:
    assert_equal_runs(arch, tmp_path, method)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["deepseek_v2", "deepseek_v3"])
def test_compiled_latent_attention_trains_the_same(arch: Arch, tmp_path: Path) -> None:
    assert_equal_runs(arch, tmp_path, "lora")


@pytest.mark.usefixtures("without_a_compiler")
def test_layers_share_their_programs(tmp_path: Path) -> None:
    model = prepared("llama", settings := config("full", "on"))
    objective = create(model, settings)
    assert compiled.apply(model) == 3  # the last layer of four gives labelled rows only
    for rows in (ROWS[:2], ROWS[2:9], ROWS):
        objective(model, rows).backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8


def never(*_: Any) -> Any:
    """An objective that nobody asks."""
    raise AssertionError


class Timed:
    """Stands for the measurement: passes take as long as it is told."""

    def __init__(self, plain_s: float, compiled_s: float) -> None:
        self.seconds, self.calls = {False: plain_s, True: compiled_s}, 0

    def __call__(self, attempt: Any, rows: Sequence[Any], *, compiled: bool = True) -> float:
        self.calls += 1
        return self.seconds[compiled]


@pytest.mark.parametrize(("compiled_s", "stays"), [(0.80, True), (0.99, False), (1.5, False)])
def test_auto_keeps_what_is_faster_and_asks_once(
    compiled_s: float, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    timed = Timed(1.0, compiled_s)
    monkeypatch.setattr(compiled._Attempt, "_pass", lambda self, rows, **how: timed(self, rows, **how))
    monkeypatch.setattr(compiled, "FEWEST_PASSES", 1)
    settings = config("full", "auto")
    for calls in (28, 28):  # four passes that pay for the programs, then three times four pairs; a resumed run none
        model = prepared("llama", settings)
        compiled.arrange(model, never, ROWS, PLAN, settings, tmp_path)
        assert timed.calls == calls
        inside = [isinstance(layer.__dict__.get("forward"), compiled._Compiled) for layer in model.model.layers]
        assert any(inside) == stays
    assert json.loads((tmp_path / compiled.DECISION).read_text())["compile"] is stays
    said = capfd.readouterr().err
    assert (f"{compiled_s:.3f} s instead of 1.000 s" if stays else f"{compiled_s:.3f} s compiled and 1.000 s") in said


@pytest.mark.usefixtures("without_a_compiler")
def test_measuring_leaves_no_trace_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FEWEST_PASSES", 1)
    monkeypatch.setattr(compiled, "GAIN", 0.0)  # never
    measured = run("llama", config("full", "auto"), tmp_path / "measured", noisy)
    assert json.loads((tmp_path / "measured" / compiled.DECISION).read_text())["seconds"] > 0
    assert_same_bits(measured, run("llama", config("full", "off"), tmp_path / "plain", noisy))


def noisy(objective: Any) -> Any:
    """An objective that draws a random number."""
    return lambda model, rows: objective(model, rows) * (0.5 + torch.rand(()))


def test_a_short_run_is_not_worth_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("llama", config("full", "auto", validation=ValidationConfig(every_steps=6)), tmp_path)
    assert "layers are not compiled: 6 passes are too few" in capfd.readouterr().err
    assert not (tmp_path / compiled.DECISION).exists()


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(compiled, "FEWEST_PASSES", 1)
    monkeypatch.setattr(compiled, "BACKEND", broken)
    with pytest.raises(ModelError, match="cannot be compiled") as caught:
        run("llama", config("full", "on"), tmp_path / "on")
    assert "memory.compile=off" in str(caught.value.hint)
    run("llama", config("full", "auto"), tmp_path / "auto")
    assert json.loads((tmp_path / "auto" / compiled.DECISION).read_text())["compile"] is False


def test_a_failed_trial_leaves_no_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FEWEST_PASSES", 1)
    model = prepared("llama", settings := config("full", "auto"))
    objective = create(model, settings)

    def broken(network: Any, rows: Sequence[Any]) -> Any:
        objective(network, rows).backward()
        raise RuntimeError("the program of the backward pass does not compile")

    compiled.arrange(model, broken, ROWS, PLAN, settings, tmp_path)
    assert json.loads((tmp_path / compiled.DECISION).read_text())["why"].startswith("the program of the backward")
    assert all(p.grad is None for p in model.parameters())


def test_what_has_nothing_to_do_with_compiling_is_said_as_it_is(tmp_path: Path) -> None:
    def refuses(*_: Any) -> Any:
        raise ModelError("a row is too long")

    model = prepared("llama", settings := config("full", "on"))
    with pytest.raises(ModelError, match="a row is too long"):
        compiled.arrange(model, refuses, ROWS, PLAN, settings, tmp_path)


def test_layers_that_change_stay_as_they_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("llama", vocab_size=300, layers=2)
    compiled.arrange(model, never, ROWS, PLAN, config("select", "on"), tmp_path)
    assert "layers are not compiled: method select trains others every few steps" in capfd.readouterr().err


def test_layers_that_are_not_known_stay_as_they_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=300, n_positions=64))
    compiled.arrange(model, never, ROWS, PLAN, config("full", "on"), tmp_path)
    assert "layers are not compiled: those of GPT2LMHeadModel are not known" in capfd.readouterr().err
    compiled.remove(model)  # as the end of every stage does


def test_layers_that_are_cut_are_refused() -> None:
    with pytest.raises((ConfigError, ValueError), match=r"memory\.compile works in one process or with strategy ddp"):
        TrainConfig.model_validate({"memory": {"compile": "on"}, "parallel": {"strategy": "fsdp"}})
