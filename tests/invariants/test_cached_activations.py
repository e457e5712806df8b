"""What frozen layers give is computed once: the same losses, the same weights, also after a crash at any moment."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import Killed, assert_same_bits, fit_tiny, losses_of, some_plan, some_rows
from tests.tiny import ARCHS, tiny_model
from tuneloop.errors import ResourceError
from tuneloop.models import Forest
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig
from tuneloop.train.methods import METHODS, activations, border
from tuneloop.train.methods.activations import Border, Cache
from tuneloop.train.objectives import create
from tuneloop.train.plan import BatchPlan
from tuneloop.train.sections import (
    CheckpointConfig,
    FreezeConfig,
    LoraConfig,
    MemoryConfig,
    OptimizerConfig,
    ValidationConfig,
)

ROWS, WATCHED, PLAN = some_rows(14), some_rows(5, seed=1), some_plan(14, steps=8)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "CHUNK_TOKENS", 60)
    monkeypatch.setattr(border, "SPARE_BYTES", 0)


def config(*, last_layers: int = 2, **more: Any) -> TrainConfig:
    return TrainConfig(
        **{"method": "freeze", "learning_rate": 3e-3, "trackers": (), "checkpoint": CheckpointConfig(every_steps=2),
           "freeze": FreezeConfig(last_layers=last_layers)} | more)  # fmt: skip


def prepared(arch: str = "llama", settings: TrainConfig | None = None, **more: Any) -> Any:
    model = tiny_model(arch, vocab_size=300, layers=4, **more)  # type: ignore[arg-type]
    settings = settings or config()
    torch.manual_seed(5)  # adapters begin with random numbers
    return METHODS[settings.method](model, settings)


def cached(
    model: Any, settings: TrainConfig, folder: Path, watched: Sequence[Any] = (), plan: BatchPlan = PLAN
) -> Callable[[Any], Any]:
    return lambda objective: border.from_border(model, objective, ROWS, watched, plan, settings, folder / "checkpoints")


def run(
    folder: Path, settings: TrainConfig, *, cache: bool, arch: str = "llama", **more: Any
) -> dict[str, torch.Tensor]:
    model = prepared(arch, settings)
    wrap = cached(model, settings, folder, more.get("validation", ())) if cache else None
    return fit_tiny(model, settings, ROWS, PLAN, folder, wrap=wrap, **more)


@pytest.mark.parametrize("last_layers", [0, 1, 3])
@pytest.mark.parametrize("arch", ARCHS)
def test_cached_equals_the_plain_padded_run(arch: str, last_layers: int, tmp_path: Path) -> None:
    settings = config(last_layers=last_layers, learning_rate=1e-3)
    plain = settings.model_copy(update={"memory": MemoryConfig(padding_free=False)})
    ours = run(tmp_path / "cached", settings, cache=True, arch=arch)
    expected = run(tmp_path / "plain", plain, cache=False, arch=arch)
    assert list((tmp_path / "cached/checkpoints/activations").glob("*.bin"))
    assert losses_of(tmp_path / "cached") == pytest.approx(losses_of(tmp_path / "plain"), abs=1e-5)
    for name, weight in expected.items():
        assert (ours[name] - weight).norm() <= 1e-4 * max(1.0, weight.norm()), name  # biases are near zero


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("arch", ARCHS)
def test_cached_equals_the_plain_padded_run_with_adapters_on_the_last_layers(
    arch: str, method: str, tmp_path: Path
) -> None:
    lora = LoraConfig(rank=4, last_layers=2, experts=method == "lora")
    if method == "dora" and arch.startswith("deepseek"):
        lora = LoraConfig(rank=4, last_layers=2, targets="attention")
    settings = config(method=method, lora=lora, learning_rate=1e-3)
    plain = settings.model_copy(update={"memory": MemoryConfig(padding_free=False)})
    ours = run(tmp_path / "cached", settings, cache=True, arch=arch)
    expected = run(tmp_path / "plain", plain, cache=False, arch=arch)
    assert list((tmp_path / "cached/checkpoints/activations").glob("*.bin"))
    assert losses_of(tmp_path / "cached") == pytest.approx(losses_of(tmp_path / "plain"), abs=1e-5)
    assert any(".layers.3." in name and "lora_B" in name and weight.any() for name, weight in ours.items())
    assert not any(".layers.1." in name and "lora_" in name for name in ours)
    for name, weight in expected.items():
        assert (ours[name] - weight).norm() <= 1e-4 * max(1.0, weight.norm()), name


@pytest.mark.parametrize("share", [True, False])
def test_cached_equals_uncached_run(share: bool, tmp_path: Path) -> None:
    settings = config(
        learning_rate=1e-3, memory=MemoryConfig(share_prefixes=share), validation=ValidationConfig(every_steps=4)
    )
    ours = run(tmp_path / "cached", settings, cache=True, validation=WATCHED)
    expected = run(tmp_path / "not", settings, cache=False, validation=WATCHED)
    assert losses_of(tmp_path / "cached") == pytest.approx(losses_of(tmp_path / "not"), abs=1e-5)
    for name, weight in expected.items():
        # by norm: AdamW turns the rounding of a gradient near zero into a step of up to the learning rate
        assert (ours[name] - weight).norm() <= 1e-5 * weight.norm(), name
    seen = [[m["validation_loss"] for m in RunDir(tmp_path / n).metrics() if "validation_loss" in m]
            for n in ("cached", "not")]  # fmt: skip
    assert len(seen[0]) == 2
    assert seen[0] == pytest.approx(seen[1], abs=1e-5)


def test_gradients_over_the_cache_equal_the_plain_ones(tmp_path: Path) -> None:
    settings = config()
    model = prepared()
    objective = create(model, settings)
    gradients = []
    for loss in (objective, cached(model, settings, tmp_path)(objective)):
        model.zero_grad()
        loss(model, ROWS[:5]).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert (gradients[1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_frozen_layers_do_not_run_in_a_step(tmp_path: Path) -> None:
    model, settings = prepared(), config()
    objective = cached(model, settings, tmp_path)(create(model, settings))
    ran: list[int] = []
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    objective(model, ROWS[:4])
    assert ran == [2, 3]


def test_beginnings_that_rows_share_stand_once_in_a_chunk(tmp_path: Path) -> None:
    model = prepared()
    found = Border.of(model)
    assert found
    cache = Cache(tmp_path, model, found, [e.input_ids for e in ROWS])
    assert len(cache.where) == len(ROWS) - 1, "equal rows are one"
    assert len(cache.chunks) > 1
    shared = sum(12 * (len(chunk) - 1) for chunk in cache.chunks)
    assert cache.tokens == sum(map(len, cache.where)) - shared


class DyingCache(Cache):
    """Dies after one chunk."""

    def _pass(self, forest: Any) -> torch.Tensor:
        if hasattr(self, "begun"):
            raise Killed
        self.begun = True
        return super()._pass(forest)


def test_killed_while_the_cache_is_built_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", config(), cache=True)
    monkeypatch.setattr(border, "Cache", DyingCache)
    with pytest.raises(Killed):
        run(tmp_path / "killed", config(), cache=True)
    monkeypatch.setattr(border, "Cache", Cache)
    assert not list((tmp_path / "killed/checkpoints/activations").glob("*.bin")), "half a cache counts as none"
    assert_same_bits(run(tmp_path / "killed", config(), cache=True), whole)


@pytest.mark.parametrize("keep_cache", [True, False])
def test_killed_mid_epoch_is_bit_identical(tmp_path: Path, keep_cache: bool) -> None:
    whole = run(tmp_path / "whole", config(), cache=True)
    with pytest.raises(Killed):
        run(tmp_path / "killed", config(), cache=True, die_at_call=5)
    files = list((tmp_path / "killed/checkpoints/activations").glob("*.bin"))
    assert len(files) == 1
    if not keep_cache:
        files[0].unlink()
    before = files[0].stat().st_mtime_ns if keep_cache else None
    assert_same_bits(run(tmp_path / "killed", config(), cache=True), whole)
    if keep_cache:
        assert files[0].stat().st_mtime_ns == before, "a whole cache is used again"


def test_a_damaged_cache_is_built_again(tmp_path: Path) -> None:
    run(tmp_path, config(), cache=True)
    (file,) = (tmp_path / "checkpoints/activations").glob("*.bin")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    model = prepared()
    cached(model, config(), tmp_path)(create(model, config()))
    assert file.read_bytes() == good


def test_other_frozen_weights_get_a_cache_of_their_own(tmp_path: Path) -> None:
    names = []
    for seed in (0, 1):
        model = prepared(seed=seed)
        cached(model, config(), tmp_path)(create(model, config()))
        names += [f.name for f in (tmp_path / "checkpoints/activations").glob("*.bin")]
    assert len(set(names)) == len(names) == 2


def refused(tmp_path: Path, settings: TrainConfig, model: Any = None, plan: BatchPlan = PLAN) -> bool:
    model = model or prepared(settings=settings)
    objective = create(model, settings)
    return cached(model, settings, tmp_path, plan=plan)(objective) is objective


def test_no_cache_where_noise_acts_below_the_border(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(tmp_path, config(optimizer=OptimizerConfig(neftune_alpha=5.0)))
    assert "NEFTune" in capsys.readouterr().err
    assert refused(tmp_path, config(), prepared(attention_dropout=0.1))
    assert "attention dropout" in capsys.readouterr().err


def test_no_cache_where_the_embedding_trains(tmp_path: Path) -> None:
    assert refused(tmp_path, config(freeze=FreezeConfig(last_layers=1, modules=("embed_tokens",))))


def test_no_cache_where_a_tied_head_trains(tmp_path: Path) -> None:
    settings = config(freeze=FreezeConfig(last_layers=1, modules=("lm_head",)))
    assert refused(tmp_path, settings, prepared(settings=settings, tie_word_embeddings=True))


def test_no_cache_where_no_row_comes_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = BatchPlan((((0, 1, 2, 3),), ((4, 5, 6, 7),)), (2,))
    assert refused(tmp_path, config(), plan=once)
    assert "no row is visited twice" in capsys.readouterr().err


def test_no_cache_that_would_fill_the_disk_and_the_decision_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(border, "SPARE_BYTES", 10**18)
        assert refused(tmp_path, config())
    assert "are free on the disk" in capsys.readouterr().err
    assert refused(tmp_path, config()), "a resumed run computes as it began"
    assert json.loads((tmp_path / "checkpoints/activations/decision.json").read_text())["why"]


def test_an_objective_that_computes_other_tokens_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, settings = prepared(), config()
    inner = create(model, settings)

    def backwards(network: Any, rows: Sequence[Any]) -> torch.Tensor:
        turned = [type(e)(e.id, e.input_ids[::-1], e.loss_mask) for e in rows]
        return inner(network, turned)

    assert cached(model, settings, tmp_path)(backwards) is backwards
    assert "other tokens" in capsys.readouterr().err


def test_a_full_disk_is_explained_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model, settings = prepared(), config()
    with monkeypatch.context() as patch:
        objective = create(model, settings)
        border.write_atomic(tmp_path / "checkpoints/activations/decision.json",
                            json.dumps({"why": None, "plan_hash": PLAN.hash}))  # fmt: skip
        patch.setattr("tuneloop.train.methods.activations.os.fsync", full)
        with pytest.raises(ResourceError, match="the disk is full"):
            cached(model, settings, tmp_path)(objective)
    assert [f.name for f in (tmp_path / "checkpoints/activations").iterdir()] == ["decision.json"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_read_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model = prepared().to(dtype)
    create(model, config())  # sets the flat attention
    found = Border.of(model)
    assert found
    cache = Cache(tmp_path, model, found, [e.input_ids for e in ROWS])
    cache.open()
    forest = Forest.grow(cache.chunks[0])
    with torch.no_grad():
        expected = cache._pass(forest)
    given = cache.gather(forest.places, cache.chunks[0], len(forest.tokens))
    assert given.dtype == dtype
    assert torch.equal(given[0], expected)
