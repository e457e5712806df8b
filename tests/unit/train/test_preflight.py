from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.train.runs import rows, settings
from tuneloop.errors import DataError, ResourceError
from tuneloop.models import available_bytes, dimensions_of, training_memory
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig, preflight
from tuneloop.train.plan import BatchPlan, draw
from tuneloop.train.preflight import Shape, check, estimated_bytes, largest_pass, need_of
from tuneloop.train.watch import warnings_of
from tuneloop.types import Example

GB = 10**9
HEAD = tuple(range(3, 33))


def twins(count: int) -> list[Example]:
    """Rows that share 30 tokens and have two of their own, one of them learned."""
    return [Example(str(i), (*HEAD, 40 + i, 50), (False,) * 31 + (True,)) for i in range(count)]


def one_step(*micros: tuple[int, ...]) -> BatchPlan:
    return BatchPlan((micros,), (1,))


def memory(**more: Any) -> TrainConfig:
    return settings(memory=more)


def test_the_largest_pass_is_counted_after_sharing() -> None:
    assert largest_pass(twins(4), one_step((0, 1, 2, 3)), settings()) == Shape(30 + 4 * 2, 4, 4, 32)
    assert largest_pass(twins(4), one_step((0, 1, 2, 3)), memory(share_prefixes=False)).tokens == 4 * 32


def test_padding_counts_where_there_is_padding() -> None:
    made = [Example("a", (5,) * 10, (True,) * 10), Example("b", (6,) * 40, (True,) * 40)]
    assert largest_pass(made, one_step((0, 1)), memory(padding_free=False)).tokens == 2 * 40
    assert largest_pass(made, one_step((0, 1)), memory()).tokens == 50


def test_the_largest_of_all_steps_is_found() -> None:
    examples = [Example(str(i), (i + 3, *range(20, 20 + n)), (True,) * (n + 1)) for i, n in enumerate((4, 30, 5, 6))]
    plan = BatchPlan((((0, 2),), ((1,), (3,))), (2,))
    assert largest_pass(examples, plan, settings()).tokens == 31


def folder_of(tiny: Callable[..., Path]) -> Path:
    return tiny("llama", "smollm", layers=8)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets what the machine has free, in bytes, beyond what the process already holds."""

    def set_free(n: float) -> None:
        monkeypatch.setattr(preflight, "available_bytes", lambda device: int(n))
        monkeypatch.setattr(preflight, "resident_bytes", lambda: 10**12)  # the runtime is all there

    return set_free


def checked(config: TrainConfig, tiny: Callable[..., Path], out: Path, examples: list[Example] | None = None) -> Any:
    examples = examples or rows(16, length=100)
    out.mkdir(exist_ok=True)
    plan = draw([len(e.input_ids) for e in examples], batch_size=config.batch_size)
    return check(config, folder_of(tiny), examples, [plan], RunDir(out))


def test_the_parts_are_those_of_the_memory_room(tiny: Callable[..., Path]) -> None:
    shape = Shape(400, 40, 8, 60)
    for method in ("full", "lora"):
        found = need_of(settings(method=method), folder_of(tiny), shape, "cpu").estimate
        wanted = training_memory(
            folder_of(tiny), method, batch_tokens=400, labelled_tokens=40, lora_rank=4, dtype="float32"
        )
        retained = int(wanted.activations * preflight.RETAINED)
        assert found == replace(wanted, activations=retained)


def test_average_and_small_moments_change_the_estimate(tiny: Callable[..., Path]) -> None:
    shape = Shape(400, 40, 8, 60)

    def optimizer(**more: Any) -> int:
        config = settings(method="full", optimizer=more)
        return need_of(config, folder_of(tiny), shape, "cpu").estimate.optimizer

    assert optimizer(ema_decay=0.9) == optimizer() * 3 // 2
    assert optimizer(name="adamw_8bit") == optimizer() // 4


def test_padding_keeps_all_logits(tiny: Callable[..., Path]) -> None:
    shape = Shape(400, 40, 8, 60)
    flat, padded = (
        need_of(memory(padding_free=kind), folder_of(tiny), shape, "cpu").estimate.activations for kind in (True, False)
    )
    assert padded - flat == 3 * 4 * 400 * dimensions_of(folder_of(tiny)).vocab


def test_virtual_tokens_are_what_trains(tiny: Callable[..., Path]) -> None:
    config = TrainConfig(method="prefix", prefix={"tokens": 10})
    found = need_of(config, folder_of(tiny), Shape(400, 40, 8, 60), "cpu").estimate
    assert found.gradients == 4 * 10 * 2 * 8 * 2 * 16  # tokens, key and value, layers, key heads, width


def test_a_run_that_fits_says_so_in_one_line(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], free: Callable[[float], None]
) -> None:
    free(8 * GB)
    need = checked(settings(), tiny, tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "memory:" in line]
    assert len(said) == 1
    assert "8.0 GB may be taken" in said[0]
    assert estimated_bytes(RunDir(tmp_path)) == need.estimate.total_bytes


def test_a_continued_run_has_one_estimate(tiny: Callable[..., Path], tmp_path: Path) -> None:
    for _ in range(2):
        checked(settings(), tiny, tmp_path)
    assert sum("estimated_memory_bytes" in line for line in RunDir(tmp_path).metrics()) == 1


def refused(
    config: TrainConfig, tiny: Callable[..., Path], out: Path, examples: list[Example] | None = None
) -> tuple[str, str]:
    with pytest.raises(ResourceError, match="does not fit into memory") as error:
        checked(config, tiny, out, examples)
    return error.value.what, error.value.hint or ""


def test_a_run_that_does_not_fit_is_refused_with_settings_that_do(
    tiny: Callable[..., Path], tmp_path: Path, free: Callable[[float], None]
) -> None:
    config = settings(batch_size=16, memory={"checkpointing": "off"})
    whole = checked(config, tiny, tmp_path / "a")
    fixed = whole.estimate.total_bytes - whole.estimate.activations - whole.estimate.runtime
    free(fixed + whole.estimate.activations * 0.45)
    what, hint = refused(config, tiny, tmp_path / "b")
    assert "activations" in what
    assert "train.batch_size=4 train.accumulation_steps=4 (same step)" in hint
    assert "train.memory.max_tokens_per_pass=" in hint
    assert "train.memory.checkpointing=on" in hint
    assert "over_budget=warn" in hint
    smaller = config.model_copy(update={"batch_size": 4, "accumulation_steps": 4})
    assert checked(smaller, tiny, tmp_path / "c").fits  # the advice is true


def test_full_training_is_sent_to_adapters(
    tiny: Callable[..., Path], tmp_path: Path, free: Callable[[float], None]
) -> None:
    config, few = settings(method="full", batch_size=1), rows(4, length=8)  # weights outweigh activations
    lora = checked(config.model_copy(update={"method": "lora"}), tiny, tmp_path / "a", few).estimate
    free(lora.total_bytes - lora.runtime + 1000)
    assert "train.method=lora" in refused(config, tiny, tmp_path / "b", few)[1]


def test_recomputing_is_taken_where_it_may_be(
    tiny: Callable[..., Path], tmp_path: Path, free: Callable[[float], None]
) -> None:
    config = settings(batch_size=16)
    whole = checked(config, tiny, tmp_path / "a").estimate
    free(whole.total_bytes - whole.runtime - 1000)
    assert checked(config, tiny, tmp_path / "b").recomputed
    refused(settings(batch_size=16, memory={"checkpointing": "off"}), tiny, tmp_path / "c")


def test_a_refusal_can_be_overruled(
    tiny: Callable[..., Path], tmp_path: Path, free: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    free(1000)
    assert not checked(settings(memory={"over_budget": "warn"}), tiny, tmp_path).fits
    assert "warning: the training does not fit" in capsys.readouterr().err


def test_a_budget_counts_where_it_is_less_than_what_is_free(tiny: Callable[..., Path], tmp_path: Path) -> None:
    assert "0.0 GB may be taken" in refused(settings(memory={"budget_gb": 1e-6}), tiny, tmp_path)[0]


def test_an_architecture_without_formula_is_tried(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    examples = rows(4)
    assert check(settings(), tmp_path, examples, [one_step((0, 1, 2, 3))], RunDir(tmp_path)) is None
    assert "no memory estimate" in capsys.readouterr().err


def test_a_step_whose_labels_are_all_masked_is_refused_with_its_rows(tiny: Callable[..., Path], tmp_path: Path) -> None:
    silent = Example("mute", (5, 6, 7), (False,) * 3)
    plan = BatchPlan((((0,),), ((1,),)), (2,))
    with pytest.raises(DataError, match=r"step 2 has no token to learn.*\(mute\)"):
        check(settings(), folder_of(tiny), [rows(1)[0], silent], [plan], RunDir(tmp_path))


def test_a_row_without_labels_among_others_is_a_warning(tiny: Callable[..., Path], tmp_path: Path) -> None:
    silent = Example("mute", (5, 6, 7), (False,) * 3)
    check(settings(), folder_of(tiny), [rows(1)[0], silent], [one_step((0, 1))], RunDir(tmp_path))
    assert [w["warning"] for w in warnings_of(RunDir(tmp_path))] == ["rows_without_label"]


def test_this_machine_has_room_for_a_tiny_run(tiny: Callable[..., Path], tmp_path: Path) -> None:
    need = checked(settings(), tiny, tmp_path)
    assert need.fits
    assert (available_bytes() or GB) > 0
