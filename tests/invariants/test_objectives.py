"""Every objective equals what a textbook writes: plain padded rows, transformers' own forward, torch's own losses.

The oracles stand here and use nothing of the product but the rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tests.tiny import ARCHS, tiny_model
from tuneloop.train import TrainConfig
from tuneloop.train.methods import prepare
from tuneloop.train.objectives import create, total_weight
from tuneloop.train.objectives.teacher import LiveTeacher
from tuneloop.train.sections import DistilConfig, MemoryConfig, OptimizerConfig
from tuneloop.types import Example

VOCABULARY = 300
PLAIN, UNSHARED = MemoryConfig(padding_free=False), MemoryConfig(share_prefixes=False)


def rows(*, whole: bool = False, count: int = 6, seed: int = 0) -> list[Example]:
    """Rows of different lengths, weights and label positions; half of them begin alike. ``whole``: all is learned."""
    rng = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, VOCABULARY) for _ in range(n))

    start, out = tokens(14), []
    for i in range(count):
        ids = (start if i % 2 else ()) + tokens(rng.randrange(6, 25))
        first = 1 if whole else rng.randrange(1, len(ids) - 1)
        out.append(Example(f"r{i}", ids, tuple(t >= first for t in range(len(ids))), 1.0 + 0.5 * (i % 3)))
    return out


def trainable(arch: Any, method: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    model = prepare(tiny_model(arch, vocab_size=VOCABULARY, layers=2), TrainConfig(method=method))
    with torch.no_grad():  # a fresh adapter has B = 0, and then A has no gradient to compare
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def plain_logits(model: Any, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, target and weight of every label, from right-padded rows."""
    longest = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([[*e.input_ids, *[0] * (longest - len(e.input_ids))] for e in examples])
    real = torch.tensor([[1] * len(e.input_ids) + [0] * (longest - len(e.input_ids)) for e in examples])
    logits = model(input_ids=ids, attention_mask=real).logits
    at = [(b, t) for b, e in enumerate(examples) for t, counted in enumerate(e.loss_mask) if counted]
    found = torch.stack([logits[b, t - 1] for b, t in at])
    return found, torch.stack([ids[b, t] for b, t in at]), torch.tensor([examples[b].weight for b, _ in at])


def loss_and_gradients(model: torch.nn.Module, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return loss.item(), torch.cat(found)


def assert_equal(
    model: torch.nn.Module, fast: Callable[[], torch.Tensor], plain: Callable[[], torch.Tensor], weight: float
) -> None:
    """``plain`` runs first, with the attention that transformers chose."""
    wanted, gradient = loss_and_gradients(model, plain() / weight)
    got, found = loss_and_gradients(model, fast() / weight)
    assert got == pytest.approx(wanted, abs=1e-5)
    assert gradient.norm() > 1e-3, "a comparison of zeros proves nothing"
    assert (found - gradient).norm() <= 1e-4 * gradient.norm()


# pretrain: packed rows


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", ARCHS)
def test_packed_texts_equal_padded_ones(arch: str, method: str) -> None:
    """No token sees another document: otherwise the packed loss would differ."""
    model, texts = trainable(arch, method), rows(whole=True)
    config = TrainConfig(objective="pretrain")

    def plain() -> torch.Tensor:
        logits, target, weight = plain_logits(model, texts)
        return (cross_entropy(logits, target, reduction="none") * weight).sum()

    assert_equal(model, lambda: create(model, config)(model, texts), plain, total_weight(texts))


# distil


def teacher_model() -> Any:
    """Of another family and size than any student, and with a wider embedding."""
    return tiny_model("llama", vocab_size=VOCABULARY + 20, layers=1, hidden=32, seed=9)


def distil_oracle(model: Any, teacher: Any, examples: Sequence[Example], settings: DistilConfig) -> torch.Tensor:
    logits, target, weight = plain_logits(model, examples)
    with torch.no_grad():
        known = plain_logits(teacher, examples)[0][:, :VOCABULARY]
    t, b = settings.temperature, settings.beta
    p, q = log_softmax(known / t, -1), log_softmax(logits[:, :VOCABULARY] / t, -1)

    def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return kl_div(second, first, reduction="none", log_target=True).sum(-1)

    if settings.divergence == "forward_kl":
        apart = kl(p, q)
    elif settings.divergence == "reverse_kl":
        apart = kl(q, p)
    else:
        middle = (b * p.exp() + (1 - b) * q.exp()).log()
        apart = b * kl(p, middle) + (1 - b) * kl(q, middle)
    labels = cross_entropy(logits, target, reduction="none")
    return ((settings.alpha * t * t * apart + (1 - settings.alpha) * labels) * weight).sum()


def assert_distils(arch: str, method: str, memory: MemoryConfig | None = None, **more: Any) -> None:
    settings = DistilConfig(**({"teacher": "t", "temperature": 2.0, "alpha": 0.6} | more))
    config = TrainConfig(objective="distil", distil=settings, memory=memory or MemoryConfig())
    model, examples, teacher = trainable(arch, method), rows(), teacher_model()

    def fast() -> torch.Tensor:
        known = LiveTeacher(
            teacher, width=VOCABULARY, temperature=settings.temperature, padding_free=config.memory.padding_free
        )
        return create(model, config, known)(model, examples)

    assert_equal(model, fast, lambda: distil_oracle(model, teacher, examples, settings), total_weight(examples))


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", ARCHS)
def test_distillation_on_a_flat_row_equals_padded(arch: str, method: str) -> None:
    assert_distils(arch, method)


@pytest.mark.parametrize("divergence", ["reverse_kl", "jsd"])
def test_every_divergence_on_a_flat_row_equals_padded(divergence: str) -> None:
    assert_distils("llama", "full", divergence=divergence, beta=0.3)


def test_padded_distillation_equals_the_textbook() -> None:
    assert_distils("llama", "full", PLAIN)


def test_chunked_distillation_equals_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneloop.train.objectives.distil.CHUNK", 5)
    assert_distils("llama", "full")


def test_the_teacher_has_no_gradient_and_no_dropout() -> None:
    teacher = teacher_model().train()
    known = LiveTeacher(teacher, width=VOCABULARY, temperature=1.0)
    config = TrainConfig(objective="distil", distil=DistilConfig(teacher="t"))
    model = trainable("llama", "full")
    create(model, config, known)(model, rows()).backward()  # type: ignore[no-untyped-call]
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())


# weights


@pytest.mark.parametrize("memory", [MemoryConfig(), PLAIN])
def test_a_row_of_weight_two_is_the_row_twice(memory: MemoryConfig) -> None:
    first, second = rows(count=2)
    model = trainable("llama", "full")
    objective = create(model, TrainConfig(memory=memory, label_smoothing=0.1))
    once = [Example(e.id, e.input_ids, e.loss_mask, w) for e, w in ((first, 2.0), (second, 1.0))]
    twice = [Example(e.id, e.input_ids, e.loss_mask) for e in (first, first, second)]
    assert total_weight(once) == total_weight(twice)
    assert objective(model, once).item() == pytest.approx(objective(model, twice).item(), rel=1e-6)


# NEFTune


def noisy(memory: MemoryConfig | None = None, **more: Any) -> TrainConfig:
    return TrainConfig(memory=memory or MemoryConfig(), optimizer=OptimizerConfig(neftune_alpha=5.0), **more)


@pytest.mark.parametrize("objective", ["sft", "distil"])
def test_noise_on_a_flat_row_equals_noise_on_padded_rows(objective: Any) -> None:
    more = {"objective": objective, "distil": DistilConfig(teacher="t") if objective == "distil" else None}
    model, examples, teacher = trainable("llama", "full").train(), rows(), teacher_model()

    def loss(memory: MemoryConfig) -> torch.Tensor:
        known = LiveTeacher(teacher, width=VOCABULARY, temperature=2.0, padding_free=memory.padding_free)
        torch.manual_seed(3)
        return create(model, noisy(memory, **more), known)(model, examples)

    assert_equal(model, lambda: loss(MemoryConfig()), lambda: loss(PLAIN), total_weight(examples))


@pytest.mark.parametrize("memory", [MemoryConfig(), PLAIN])
def test_the_noise_is_that_of_the_paper(memory: MemoryConfig) -> None:
    """Uniform in (-1, 1) times alpha / sqrt(L d), L being the row's own length: Jain et al. (2023), algorithm 1."""
    model, examples = trainable("llama", "full").train(), rows()
    with_noise = create(model, noisy(memory))
    torch.manual_seed(3)
    noise = [torch.rand(len(e.input_ids), 64) for e in examples]
    wanted = [(2 * x - 1) * 5 / (len(e.input_ids) * 64) ** 0.5 for x, e in zip(noise, examples, strict=True)]
    seen: list[torch.Tensor] = []
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    layer: Any = model.model.layers[0]  # type: ignore[union-attr, index]
    handle = layer.register_forward_pre_hook(lambda _m, args, _k: seen.append(args[0].detach()), with_kwargs=True)
    torch.manual_seed(3)
    with_noise(model, examples)
    handle.remove()
    at = 0
    for b, (example, expected) in enumerate(zip(examples, wanted, strict=True)):
        n = len(example.input_ids)
        row = seen[0][0, at : at + n] if memory.padding_free else seen[0][b, :n]
        added = row - embedding(torch.tensor(example.input_ids))
        assert (added - expected).abs().max() < 1e-6
        at += n


def test_validation_has_no_noise() -> None:
    model, examples = trainable("llama", "full").eval(), rows()
    quiet = create(model, TrainConfig())(model, examples).item()
    state = torch.get_rng_state()
    assert create(model, noisy())(model, examples).item() == pytest.approx(quiet, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn either"
