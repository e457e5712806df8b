"""What is written is read back by two independent readers: transformers' GGUF loader and llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_folder
from tuneloop.compress import write_gguf
from tuneloop.engines import EngineConfig, create, generate
from tuneloop.errors import ModelError
from tuneloop.models import load_model, load_tokenizer, open_bundle
from tuneloop.types import Request, Sampling


def written(folder: Path, out: Path, quantisation: str) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    write_gguf(
        load_model(folder),
        load_tokenizer(folder),
        out / f"model.{quantisation.upper()}.gguf",
        quantisation,
        name="tiny",
    )
    return out


@pytest.mark.parametrize(("arch", "style"), [("llama", "smollm"), ("qwen2", "chatml")])
def test_full_precision_comes_back_bit_for_bit(
    arch: str, style: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny(arch, style)
    before = load_model(folder).state_dict()
    after = load_model(open_bundle(written(folder, tmp_path / "f32", "f32"))).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_q8_0_is_within_half_a_step_of_its_block_scale(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Q8_0: 32 weights share scale = max|w| / 127, stored in float16: half a step, and 127 steps of 2^-11 of the scale."""
    folder = tiny("llama", "smollm")
    before = load_model(folder).state_dict()["model.layers.0.mlp.up_proj.weight"]
    after = load_model(open_bundle(written(folder, tmp_path / "q8", "q8_0"))).state_dict()[
        "model.layers.0.mlp.up_proj.weight"
    ]
    blocks = before.reshape(-1, 32)
    allowed = blocks.abs().amax(1, keepdim=True) * (0.5 / 127 + 2**-11)
    assert ((after.reshape(-1, 32) - blocks).abs() <= allowed + 1e-7).all()
    assert not torch.equal(before, after)


@pytest.mark.parametrize(("arch", "style"), [("llama", "smollm"), ("qwen2", "chatml")])
def test_llama_cpp_continues_like_transformers(
    arch: str, style: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny(arch, style)
    bundle = open_bundle(written(folder, tmp_path / "f32", "f32"))
    requests = [Request(str(i), tuple(range(20 + i, 30 + 3 * i)), Sampling(max_tokens=6)) for i in range(4)]
    answers = []
    for config, source in (
        (EngineConfig(name="llamacpp", context_tokens=256, threads=1), bundle),
        (EngineConfig(name="transformers", device="cpu"), open_bundle(folder)),
    ):
        engine = create(config, source)
        try:
            answers.append([a.token_ids for a in generate(engine, requests)])
        finally:
            engine.close()
    assert answers[0] == answers[1]


def test_an_unknown_architecture_is_refused_with_what_is_supported(tmp_path: Path) -> None:
    folder = tiny_folder("deepseek_v3", "chatml", tmp_path)
    with pytest.raises(ModelError, match="deepseek_v3") as error:
        write_gguf(load_model(folder), load_tokenizer(folder), tmp_path / "x.gguf", "q8_0", name="x")
    assert "llama" in (error.value.hint or "")
