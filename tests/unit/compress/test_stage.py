"""Compression as a stage: merged adapter -> GGUF -> parity; what fails parity cannot be served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuneloop import compress, models
from tuneloop.compress import CompressConfig
from tuneloop.errors import ModelError
from tuneloop.models import load_model, load_tokenizer, open_bundle, save_adapter_bundle
from tuneloop.rundir import RunDir
from tuneloop.train import TrainConfig
from tuneloop.train.methods import METHODS
from tuneloop.types import Message, Record


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        Record(
            str(i), (Message("user", f"I lost my card {i} 银行卡"), Message("assistant", f"card_lost {i}")), "card_lost"
        )
        for i in range(12)
    ]
    for split in ("train", "validation", "test"):
        text = "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def adapter(tiny: Callable[..., Path], tmp_path: Path) -> models.Bundle:
    base = tiny("llama", "smollm")
    torch.manual_seed(0)
    model = METHODS["lora"](load_model(base), TrainConfig())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {"licence": "test"})


def test_a_merged_adapter_passes_parity_at_eight_bits(adapter: models.Bundle, records: Path, tmp_path: Path) -> None:
    out = RunDir(tmp_path / "out")
    out.path.mkdir()
    result = compress.run(CompressConfig(parity_prompts=8), adapter, records, out)
    assert result.parity.ok, result.parity.reason
    assert result.parity.token_ids_equal
    assert result.parity.positions >= 8
    assert 0 < result.parity.mean_kl < 0.01
    assert compress.load(out).parity == result.parity
    assert result.sizes_bytes["q8_0"] < result.sizes_bytes["float32"]
    models.verify(open_bundle(out / "bundle"))
    merged, plain = load_model(adapter), load_model(adapter.base or adapter.path)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        there = load_model(result.bundle)(ids).logits
        assert (there - merged(ids).logits).abs().max() < 0.1 * (there - plain(ids).logits).abs().max()


def test_merged_equals_unmerged(adapter: models.Bundle) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        merged, unmerged = (load_model(adapter, merge=m)(ids).logits for m in (True, False))
    assert (merged - unmerged).abs().max() <= 1e-4


def test_what_fails_parity_cannot_be_served(adapter: models.Bundle, records: Path, tmp_path: Path) -> None:
    out = RunDir(tmp_path / "out")
    out.path.mkdir()
    result = compress.run(CompressConfig(parity_prompts=4, max_mean_kl=1e-12), adapter, records, out)
    assert not result.parity.ok
    assert "mean KL" in result.parity.reason
    with pytest.raises(ModelError, match="failed parity"):
        models.verify(open_bundle(out / "bundle"))
