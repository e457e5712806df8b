from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from tests.tiny import tiny_model, tiny_tokenizer
from tuneloop.errors import ModelError
from tuneloop.train.objectives import cached
from tuneloop.train.objectives.distil import FlatDistil
from tuneloop.train.objectives.divergence import best, divergence, seen_through, soften
from tuneloop.train.objectives.teacher import LiveTeacher, check_vocabulary, shared_width
from tuneloop.train.sections import DistilConfig
from tuneloop.types import Example

V, N = 30, 4


def pair(temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a teacher and a student."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, N, V, generator=draw, dtype=torch.float64) * 3
    teacher, student = log_softmax(logits / temperature, -1)
    return teacher, student


def config(**more: Any) -> DistilConfig:
    return DistilConfig(**({"teacher": "t", "temperature": 1.0} | more))


def total(teacher: torch.Tensor, student: torch.Tensor, **more: Any) -> float:
    return divergence(teacher, student, config(**more)).sum().item()


# golden values


def test_forward_kl_is_what_torch_computes() -> None:
    teacher, student = pair()
    wanted = kl_div(student, teacher, reduction="sum", log_target=True).item()
    assert total(teacher, student, divergence="forward_kl") == pytest.approx(wanted, rel=1e-12)


def test_reverse_kl_is_what_torch_computes_with_its_arguments_swapped() -> None:
    teacher, student = pair()
    wanted = kl_div(teacher, student, reduction="sum", log_target=True).item()
    assert total(teacher, student, divergence="reverse_kl") == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_is_the_generalised_one(beta: float) -> None:
    """Agarwal et al. (2024), section 2: beta KL(P | M) + (1 - beta) KL(Q | M), M = beta P + (1 - beta) Q."""
    teacher, student = pair()
    p, q = teacher.exp(), student.exp()
    m = beta * p + (1 - beta) * q
    wanted = (beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum().item()
    assert total(teacher, student, divergence="jsd", beta=beta) == pytest.approx(wanted, rel=1e-10)


def test_jsd_is_what_trl_computes() -> None:
    """TRL, GKDTrainer.generalized_jsd_loss: the mixture by logsumexp, torch's kl_div against it both times."""
    teacher, student = pair()
    beta = torch.tensor(0.3, dtype=torch.float64)
    mixture = torch.logsumexp(torch.stack([student + torch.log1p(-beta), teacher + torch.log(beta)]), dim=0)
    of_teacher = kl_div(mixture, teacher, reduction="none", log_target=True)
    of_student = kl_div(mixture, student, reduction="none", log_target=True)
    wanted = (beta * of_teacher + (1 - beta) * of_student).sum().item()
    assert total(teacher, student, divergence="jsd", beta=0.3) == pytest.approx(wanted, rel=1e-10)


def test_kl_of_two_coins_by_hand() -> None:
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert total(teacher, student) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)


def test_the_loss_is_scaled_by_the_square_of_the_temperature() -> None:
    teacher, student = pair(3.0)
    assert total(teacher, student, temperature=3.0) == pytest.approx(9 * total(teacher, student), rel=1e-12)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_the_gradient_is_that_of_finite_differences(kind: Any) -> None:
    teacher, _ = pair(2.0)
    logits = torch.randn(N, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return divergence(teacher, log_softmax(x / 2, -1), config(divergence=kind, temperature=2.0))

    assert torch.autograd.gradcheck(loss, (logits,))


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_the_gradient_through_the_best_tokens_is_that_of_finite_differences(kind: Any) -> None:
    tokens, known = best(pair(2.0)[0], 5)
    logits = torch.randn(N, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return divergence(known, seen_through(log_softmax(x / 2, -1), tokens), config(divergence=kind))

    assert torch.autograd.gradcheck(loss, (logits,))


# the best tokens and the rest


def test_the_best_tokens_and_the_rest_are_a_distribution() -> None:
    teacher, student = pair()
    tokens, known = best(teacher, 5)
    for found in (known, seen_through(student, tokens)):
        assert found.exp().sum(-1).tolist() == pytest.approx([1.0] * N, abs=1e-12)


def test_all_tokens_but_one_are_as_good_as_all() -> None:
    teacher, student = pair()
    tokens, known = best(teacher, V - 1)
    assert total(known, seen_through(student, tokens)) == pytest.approx(total(teacher, student), rel=1e-12)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_fewer_tokens_never_raise_the_divergence(kind: Any) -> None:
    teacher, student = pair()
    seen = []
    for k in (1, 3, 10, V - 1):
        tokens, known = best(teacher, k)
        seen.append(total(known, seen_through(student, tokens), divergence=kind))
    assert seen[0] > 0
    assert seen == sorted(seen)


def test_the_rest_keeps_its_digits_where_the_teacher_is_sure() -> None:
    logits = torch.zeros(1, V)
    logits[0, 0] = 60.0
    _, known = best(soften(logits, 1.0, V), 1)
    assert known[0, 1].item() == pytest.approx(math.log(V - 1) - 60, abs=1e-4)


# vocabularies


def test_the_same_tokenizer_is_accepted() -> None:
    tokenizer = tiny_tokenizer("chatml")
    assert check_vocabulary(tokenizer, tiny_tokenizer("chatml")) == len(tokenizer)


def test_another_vocabulary_is_refused_with_a_token_that_differs() -> None:
    with pytest.raises(
        ModelError, match=r"different vocabularies .* tokens differ; .*\n?.*hint: take a teacher of the same"
    ):
        check_vocabulary(tiny_tokenizer("chatml"), tiny_tokenizer("llama3"))


def test_other_merges_are_refused() -> None:
    from transformers import PreTrainedTokenizerFast

    plain = json.loads(tiny_tokenizer("chatml").backend_tokenizer.to_str())
    plain["model"]["merges"] = plain["model"]["merges"][::-1]
    from tokenizers import Tokenizer

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(plain)))
    with pytest.raises(ModelError, match="merges differ"):
        check_vocabulary(tiny_tokenizer("chatml"), other)


def test_differently_padded_embeddings_are_cut_to_the_narrower() -> None:
    small, large = tiny_model("llama", vocab_size=100), tiny_model("llama", vocab_size=128)
    assert shared_width(small, large, 90) == shared_width(large, small, 90) == 100


def test_a_model_with_fewer_logits_than_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="the vocabulary has 110 tokens; the student has logits for 100"):
        shared_width(tiny_model("llama", vocab_size=100), tiny_model("llama", vocab_size=128), 110)


# the cache


def rows(count: int = 12) -> list[Example]:
    draw = np.random.default_rng(0)
    sizes = draw.integers(6, 20, count)
    ids = [tuple(map(int, draw.integers(0, 100, n))) for n in sizes]
    return [Example(f"r{i}", x, (False,) * 3 + (True,) * (len(x) - 3), 1.0 + i % 2) for i, x in enumerate(ids)]


def live(seed: int = 7) -> LiveTeacher:
    return LiveTeacher(tiny_model("llama", vocab_size=100, seed=seed), width=100, temperature=2.0)


def write(folder: Path, examples: list[Example], teacher: Any = live, k: int = 10, name: str = "key") -> None:
    cached.write(folder, name, teacher, examples, k)


def reader(folder: Path, examples: list[Example], k: int = 10) -> cached.CachedTeacher:
    return cached.CachedTeacher(folder, examples, k=k, width=100, temperature=2.0)


def test_the_cache_holds_what_the_teacher_says(tmp_path: Path) -> None:
    examples, teacher = rows(), live()
    write(tmp_path / "t", examples)
    chosen = [examples[5], examples[0], examples[9]]
    tokens, log_probs = reader(tmp_path / "t", examples).known(chosen, None)
    from tuneloop.train.batch import collate

    wanted_tokens, wanted = best(teacher.log_probs(teacher.known(chosen, collate(chosen))), 10)
    assert torch.equal(tokens, wanted_tokens)
    assert (log_probs - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_cache_of_nearly_all_tokens_gives_the_loss_of_the_teacher(tmp_path: Path, kind: Any) -> None:
    examples, settings = rows(), config(divergence=kind, temperature=2.0, alpha=0.7)
    write(tmp_path / "t", examples, k=99)
    student = tiny_model("llama", vocab_size=100, seed=1)
    LiveTeacher(student, width=100, temperature=2.0)
    known = FlatDistil(reader(tmp_path / "t", examples, 99), settings)(student, examples)
    assert known.item() == pytest.approx(FlatDistil(live(), settings)(student, examples).item(), rel=1e-5)


def test_a_whole_cache_is_not_written_again(tmp_path: Path) -> None:
    write(tmp_path / "t", rows())

    def never() -> LiveTeacher:
        raise AssertionError("the teacher was asked again")

    write(tmp_path / "t", rows(), never)


def test_a_cache_of_another_key_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "t", rows())
    before = (tmp_path / "t" / cached.LOG_PROBS).read_bytes()
    write(tmp_path / "t", rows(), lambda: live(8), name="other")
    assert (tmp_path / "t" / cached.LOG_PROBS).read_bytes() != before
    assert cached.is_whole(tmp_path / "t", "other")
    assert not cached.is_whole(tmp_path / "t", "key")


class Killed(Exception):
    pass


def test_a_killed_cache_goes_on_and_is_the_same_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "GROUP_TOKENS", 30)
    monkeypatch.setattr(cached, "SAVE_EVERY_GROUPS", 2)
    examples = rows()
    write(tmp_path / "whole", examples)
    look, asked = cached._look, []

    def dies(teacher: LiveTeacher, group: Any, k: int) -> Any:
        asked.append(len(group))
        if len(asked) == 4:
            raise Killed
        return look(teacher, group, k)

    monkeypatch.setattr(cached, "_look", dies)
    with pytest.raises(Killed):
        write(tmp_path / "t", examples)
    assert not cached.is_whole(tmp_path / "t", "key")
    groups = len(list(cached._groups(examples)))
    asked[:] = [0] * 10
    write(tmp_path / "t", examples)
    assert len(asked) - 10 == groups - 2, "the two groups that were saved are not asked for again"
    for name in (cached.TOKENS, cached.LOG_PROBS):
        assert (tmp_path / "t" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_cache_is_written_again(tmp_path: Path) -> None:
    write(tmp_path / "t", rows())
    whole = (tmp_path / "t" / cached.TOKENS).read_bytes()
    (tmp_path / "t" / cached.TOKENS).write_bytes(b"\x01" + whole[1:])
    assert not cached.is_whole(tmp_path / "t", "key")
    write(tmp_path / "t", rows())
    assert (tmp_path / "t" / cached.TOKENS).read_bytes() == whole


def test_the_key_depends_on_everything_that_changes_the_numbers() -> None:
    examples = rows(3)

    def key(teacher: str = "t", dtype: str = "float32", of: list[Example] = examples, **more: Any) -> str:
        return cached.key_of(teacher, dtype, of, **({"k": 4, "width": 100, "temperature": 2.0} | more))

    other = [*examples[:2], replace(examples[2], loss_mask=(False, *examples[2].loss_mask[1:-1], False))]
    keys = [key(), key("u"), key(dtype="bf16"), key(of=other), key(k=5), key(width=99), key(temperature=1.0)]
    assert len(set(keys)) == len(keys)


def test_a_row_that_the_teacher_has_not_seen_is_an_error(tmp_path: Path) -> None:
    examples = rows()
    write(tmp_path / "t", examples)
    with pytest.raises(ModelError, match="does not know row new"):
        reader(tmp_path / "t", examples).known([Example("new", (1, 2), (False, True))], None)
