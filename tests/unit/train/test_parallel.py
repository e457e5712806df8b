"""Shares of a step, the launcher's variables, and configurations that contradict themselves."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_model
from tuneloop.config import build
from tuneloop.errors import ConfigError, MissingExtraError, ModelError
from tuneloop.train import TrainConfig, rank_here, world
from tuneloop.train.parallel.fsdp import fleshed_out, skeleton
from tuneloop.train.parallel.place import Placed, place
from tuneloop.train.parallel.shares import shares
from tuneloop.train.parallel.tensor import plan
from tuneloop.train.parallel.world import ALONE, World, described
from tuneloop.train.parallel.zero import settings
from tuneloop.types import Example


def rows(lengths: list[int]) -> list[Example]:
    return [Example(f"r{i}", (1,) * n, (False,) + (True,) * (n - 1)) for i, n in enumerate(lengths)]


def tokens(passes: list[list[Example]]) -> int:
    return sum(len(row.input_ids) for part in passes for row in part)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_row_is_computed_once(size: int) -> None:
    lengths = [random.Random(i).randrange(2, 90) for i in range(20)]
    planned = [rows(lengths)[at : at + 5] for at in range(0, 20, 5)]
    dealt = shares(planned, size)
    assert len(dealt) == size
    found = [row.id for passes in dealt for part in passes for row in part]
    assert sorted(found) == sorted(row.id for micro in planned for row in micro)


def test_shares_hold_nearly_the_same_number_of_tokens() -> None:
    planned = [rows([100, 90, 10, 10, 10, 80, 50, 50])]
    held = [tokens(passes) for passes in shares(planned, 2)]
    assert held == [200, 200]


def test_no_pass_is_larger_than_planned() -> None:
    every = rows([40, 30, 20, 20, 10, 10, 10, 10, 10, 10])
    planned = [every[:1], every[1:3], every[3:6], every[6:]]
    for passes in shares(planned, 2):
        assert all(len(part) <= 4 for part in passes)
        assert all(sum(len(r.input_ids) for r in part) <= 50 for part in passes)


def test_a_process_without_rows_has_no_pass_unless_passes_are_collective() -> None:
    planned = [rows([10, 20])]
    one = Placed(torch.nn.Linear(1, 1), World(rank=2, size=3))
    assert list(one.passes(planned)) == []
    one.lockstep = True
    ((part, counts),) = one.passes(planned)
    assert [len(row.input_ids) for row in part] == [10], "the shortest row is computed in vain"
    assert not counts


def test_alone_the_plan_is_followed_as_it_is() -> None:
    planned = [rows([10, 20]), rows([5])]
    assert [part for part, _ in Placed(torch.nn.Linear(1, 1), ALONE).passes(planned)] == planned


def test_a_world_of_one_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world() as here:
        assert here.alone
        assert here.is_main
        assert here.sum([2.0, 3.0]) == [2.0, 3.0]
        assert here.any(False, True) == [False, True]
        assert here.from_main(lambda: 7) == 7
        assert here.gather("x") == ["x"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, (0, 1)), ({"RANK": "3"}, (0, 1)), ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2))],
)
def test_the_launchers_variables(variables: dict[str, str], expected: tuple[int, int]) -> None:
    assert described(variables) == expected


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}]
)
def test_variables_that_describe_no_process(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="do not describe a process"):
        rank_here()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"strategy": "deepspeed"}, "needs a preset"),
        ({"strategy": "fsdp", "deepspeed": "zero3"}, "contradict"),
        ({"cpu_offload": True}, "belongs to strategy: fsdp"),
    ],
)
def test_contradictions_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, {"parallel": section})


def test_a_model_without_a_plan_cannot_be_cut() -> None:
    with pytest.raises(ModelError, match="no tensor-parallel plan for Linear"):
        plan(torch.nn.Linear(2, 2))


def test_how_the_work_is_shared_is_no_reason_to_train_again() -> None:
    assert TrainConfig().hash() == build(TrainConfig, {"deepspeed": "zero3"}).value.hash()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "select"}, "method: select"),
        ({"method": "qlora"}, "method: qlora"),
        ({"method": "prefix"}, "method: prefix"),
        ({"method": "full", "validation": {"samples": 2}}, "validation.samples"),
        ({"method": "lora", "parallel": {"strategy": "tensor"}}, "tensor parallel trains full and freeze"),
    ],
)
def test_what_was_not_shown_on_parts_of_layers_is_refused(
    options: dict[str, object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "same_start", lambda *_: None)
    config = build(TrainConfig, {"parallel": {"strategy": "fsdp"}, **options}).value
    with pytest.raises(ConfigError, match=what):
        place(tiny_model("llama", vocab_size=50), config, World(0, 2))


def test_deepspeed_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "deepspeed", None)
    config = build(TrainConfig, {"method": "full", "deepspeed": "zero3"}).value
    with pytest.raises(MissingExtraError, match=r"tuneloop\[deepspeed\]"):
        place(tiny_model("llama", vocab_size=50), config, ALONE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zero_optimization": {"stage": 3}, "optimizer": {"type": "Adam"}}, "decided twice"),
        ({"zero_optimization": {"stage": 3}, "fp16": {"enabled": True}}, "decided twice"),
        ({"train_batch_size": 8}, "no section zero_optimization"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, "NVMe"),
    ],
)
def test_deepspeed_files_that_decide_what_is_decided_here(
    content: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(content))
    config = build(TrainConfig, {"deepspeed": str(tmp_path / "ds.json")}).value
    with pytest.raises(ConfigError, match=message):
        settings(config, torch.float32)


def test_a_deepspeed_file_keeps_its_own_settings(tmp_path: Path) -> None:
    zero = {"stage": 3, "reduce_bucket_size": "auto", "sub_group_size": 1000}
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": zero, "train_batch_size": "auto"}))
    made = settings(build(TrainConfig, {"deepspeed": str(tmp_path / "ds.json")}).value, torch.bfloat16)
    assert made["zero_optimization"] == {"stage": 3, "sub_group_size": 1000}
    assert made["bf16"] == {"enabled": True}
    assert made["gradient_clipping"] == 1.0
    assert "train_batch_size" not in made


def test_a_skeleton_with_its_weights_is_the_model_and_keeps_what_is_tied() -> None:
    model = tiny_model("llama", vocab_size=50, tie_word_embeddings=True)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    bones = skeleton(model)
    assert all(p.is_meta for p in bones.parameters())
    again = fleshed_out(bones, model)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert not again.model.layers[0].mlp.up_proj.weight.requires_grad
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
