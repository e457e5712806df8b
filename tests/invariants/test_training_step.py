"""Speed must not change the numbers: every fast form of the training step equals the plain padded computation."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import ARCHS, tiny_model
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig
from tuneloop.train.loop import fit
from tuneloop.train.methods import METHODS
from tuneloop.train.objectives import sft, total_weight
from tuneloop.train.plan import BatchPlan
from tuneloop.train.sections import MemoryConfig
from tuneloop.types import Example

VOCABULARY = 300


def rows(count: int = 8, seed: int = 0) -> list[Example]:
    """Rows with a common system prompt; some share more, one is another's beginning, one has its own start."""
    rng = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, VOCABULARY) for _ in range(n))

    system, question = tokens(20), tokens(12)
    out = []
    for i in range(count):
        prompt = system + (question if i in (1, 2) else ()) + tokens(rng.randrange(4, 30))
        if i == 5:
            prompt = tokens(17)
        answer = tokens(rng.randrange(1, 9))
        out.append(
            Example(
                f"row{i}", prompt + answer, (False,) * len(prompt) + (True,) * len(answer), weight=1.0 + 0.5 * (i % 2)
            )
        )
    longer = out[3]
    more = tokens(6)
    out[4] = Example("row4", longer.input_ids + more, (False,) * len(longer.input_ids) + (True,) * len(more))
    # rows that part right where the answer begins: one position predicts two different tokens
    head = out[6].input_ids[: -out[6].label_tokens]
    out[7] = Example("row7", (*head, 7, 8), (False,) * len(head) + (True, True), weight=2.0)
    return out


def trainable(arch: str, method: str, seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = METHODS[method](tiny_model(arch, vocab_size=VOCABULARY, layers=3), TrainConfig(method=method))  # type: ignore[arg-type]
    with torch.no_grad():  # a fresh adapter has B = 0, and then A has no gradient to compare
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def loss_and_gradients(
    model: torch.nn.Module, examples: list[list[Example]], **kind: Any
) -> tuple[float, torch.Tensor]:
    objective = sft(model, **({"padding_free": True, "share_prefixes": True, "label_smoothing": 0.0} | kind))
    model.zero_grad()
    weight = sum(total_weight(micro) for micro in examples)
    total = 0.0
    for micro in examples:
        loss = objective(model, micro) / weight
        loss.backward()
        total += loss.item()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return total, torch.cat(gradients)


def assert_equal(got: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert got[0] == pytest.approx(expected[0], abs=1e-5)
    assert expected[1].norm() > 1e-3, "a comparison of zeros proves nothing"
    assert (got[1] - expected[1]).norm() <= 1e-4 * expected[1].norm()


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", ARCHS)
def test_padding_free_equals_padded(arch: str, method: str) -> None:
    model, batch = trainable(arch, method), [rows()]
    plain = loss_and_gradients(model, batch, padding_free=False)
    assert_equal(loss_and_gradients(model, batch, share_prefixes=False), plain)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", ARCHS)
def test_shared_prefixes_equal_padded(arch: str, method: str) -> None:
    model, batch = trainable(arch, method), [rows()]
    plain = loss_and_gradients(model, batch, padding_free=False)
    assert_equal(loss_and_gradients(model, batch), plain)


@pytest.mark.parametrize("arch", ARCHS)
def test_accumulation_1x8_equals_8x1(arch: str) -> None:
    model, all_rows = trainable(arch, "lora"), rows()
    assert_equal(
        loss_and_gradients(model, [[row] for row in all_rows]),
        loss_and_gradients(model, [all_rows], padding_free=False),
    )


def test_label_smoothing_and_chunked_logits_equal_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = trainable("llama", "full"), [rows()]
    plain = loss_and_gradients(model, batch, padding_free=False, label_smoothing=0.1)
    monkeypatch.setattr("tuneloop.train.objectives.flat.CHUNK", 5)
    monkeypatch.setattr("tuneloop.train.objectives.head.CHUNK", 5)
    assert_equal(loss_and_gradients(model, batch, label_smoothing=0.1), plain)


@pytest.mark.parametrize("tile_area", [1, 400, 10**9])
def test_tiling_does_not_change_the_numbers(tile_area: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneloop.models.flat.TILE_AREA", tile_area)
    model, batch = trainable("qwen2", "lora"), [rows()]
    assert_equal(loss_and_gradients(model, batch), loss_and_gradients(model, batch, padding_free=False))


@pytest.mark.parametrize("seed", range(6))
def test_many_random_forests_equal_padded(seed: int) -> None:
    rng = random.Random(seed)
    pool = [tuple(rng.randrange(5, 60) for _ in range(rng.randrange(8, 14))) for _ in range(4)]
    examples = []
    for i in range(7):
        ids = tuple(t for _ in range(rng.randrange(1, 4)) for t in rng.choice(pool))
        mask = tuple(t > 0 and rng.random() < 0.4 for t in range(len(ids)))
        examples.append(Example(str(i), ids, (*mask[:-1], True)))
    model = trainable("llama", "full", seed)
    assert_equal(loss_and_gradients(model, [examples]), loss_and_gradients(model, [examples], padding_free=False))


def test_segments_never_see_each_other() -> None:
    """Changing one row leaves the hidden states, and so the loss, of every other row untouched."""
    model = trainable("llama", "full")
    objective = sft(model, padding_free=True, share_prefixes=False, label_smoothing=0.0)
    first, second = rows()[0], rows()[1]
    other = Example("x", tuple(reversed(second.input_ids)), second.loss_mask)
    silent = [Example(e.id, e.input_ids, (False,) * len(e.input_ids)) for e in (second, other)]
    with torch.no_grad():
        assert objective(model, [first, silent[0]]).item() == pytest.approx(
            objective(model, [first, silent[1]]).item(), abs=1e-6
        )


def test_whole_runs_agree(tmp_path: Path) -> None:
    """Twenty steps, fast and plain, from the same start: every loss within 1e-5."""
    examples = rows(16, seed=3)
    order = [random.Random(s).sample(range(16), 8) for s in range(20)]
    plan = BatchPlan(tuple((tuple(o),) for o in order), (20,))
    losses = []
    for name, fast in (("fast", True), ("plain", False)):
        config = TrainConfig(learning_rate=1e-3, trackers=(), memory=MemoryConfig(padding_free=fast))
        model = trainable("llama", "lora")
        objective = sft(model, padding_free=fast, share_prefixes=fast, label_smoothing=0.0)
        out = RunDir(tmp_path / name)
        out.path.mkdir()
        fit(model, objective, examples, [], plan, config, out)
        losses.append([line["loss"] for line in out.metrics()])
    assert len(losses[0]) == 20
    assert losses[0][0] > losses[0][-1]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
