"""Stages that train parts of a model, and what a run of them leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import Killed, assert_same_bits, some_rows
from tests.tiny import tiny_model
from tuneloop.models import quiet
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig, run
from tuneloop.train.config import StageConfig
from tuneloop.train.methods import border
from tuneloop.train.objectives import create
from tuneloop.train.phases import train_phases
from tuneloop.train.plan import BatchPlan, draw
from tuneloop.train.sections import CheckpointConfig, FreezeConfig, PrefixConfig, SelectConfig
from tuneloop.types import Example, Message, Record

ROWS = some_rows(12)
STAGES = (
    StageConfig(method="freeze", freeze=FreezeConfig(last_layers=0), name="head"),
    StageConfig(method="freeze", freeze=FreezeConfig(last_layers=2), name="middle"),
    StageConfig(method="select", select=SelectConfig(layers=2, every_steps=2, sample_rows=4), name="chosen"),
    StageConfig(method="full", name="all"),
)
STEPS = 6


def plan_of(number: int, config: TrainConfig) -> BatchPlan:
    return draw([len(e.input_ids) for e in ROWS], batch_size=4, epochs=config.epochs, seed=number)


def train(out: Path, die_at_call: int | None = None) -> dict[str, torch.Tensor]:
    """All stages; dies when the loss is asked for the n-th time in this process."""
    config = TrainConfig(
        method="staged", stages=STAGES, epochs=2, batch_size=4, learning_rate=1e-3, trackers=(),
        checkpoint=CheckpointConfig(every_steps=2),
    )  # fmt: skip
    calls = 0

    def dying(model: Any, phase: TrainConfig) -> Any:
        inner = create(model, phase)

        def loss(network: Any, rows: Sequence[Example]) -> torch.Tensor:
            nonlocal calls
            if calls == die_at_call:
                raise Killed
            calls += 1
            return inner(network, rows)

        return loss

    out.mkdir(exist_ok=True)
    model = tiny_model("llama", vocab_size=300, layers=4)
    done = train_phases(model, config, ROWS, [], plan_of, dying, RunDir(out))
    return {name: p.detach().clone() for name, p in done.model.state_dict().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    patch = pytest.MonkeyPatch()
    patch.setattr(border, "SPARE_BYTES", 0)
    weights = train(tmp_path_factory.mktemp("whole"))
    patch.undo()
    return weights


@pytest.mark.parametrize("call", [5, 12, 16, 24])  # in the stages head, middle, between, chosen
def test_staged_and_interrupted_is_bit_identical(
    call: int, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(border, "SPARE_BYTES", 0)
    with pytest.raises(Killed):
        train(tmp_path, die_at_call=call)
    assert_same_bits(train(tmp_path), whole)
    assert [m["step"] for m in RunDir(tmp_path).metrics() if "loss" in m] == list(range(1, 4 * STEPS + 1))


def test_a_finished_stage_leaves_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(border, "SPARE_BYTES", 0)
    train(tmp_path)
    said = capsys.readouterr().err
    assert "layers below 4 are frozen" in said
    assert "layers below 2 are frozen" in said
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_a_run_of_virtual_tokens_ends_as_an_adapter_that_peft_loads(
    method: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    rows = [Record(f"r{i}", (Message("user", f"hi {i}"), Message("assistant", "yes"))) for i in range(6)]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        text = "".join(json.dumps(r.to_json()) + "\n" for r in rows)
        (tmp_path / f"data/{split}.jsonl").write_text(text, encoding="utf-8")
    out = RunDir(tmp_path / "out")
    out.path.mkdir()
    config = TrainConfig(method=method, max_steps=4, batch_size=3, prefix=PrefixConfig(tokens=6), trackers=())  # type: ignore[arg-type]
    base = tiny("llama", "chatml")
    result = run(config, base, tmp_path / "data", out)
    assert result.bundle.kind == "adapter"
    assert result.bundle.virtual_tokens == 6
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(base)
        loaded = peft.PeftModel.from_pretrained(plain, result.bundle.path)
    assert loaded.active_peft_config.num_virtual_tokens == 6
    assert result.validation_loss is not None
    assert result.trained_parameters == (6 * 2 * 2 * 2 * 16 if method == "prefix" else 6 * 64)
