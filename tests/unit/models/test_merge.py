from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import (
    Bundle,
    add_adapter,
    load_model,
    load_tokenizer,
    merge_bundle,
    open_bundle,
    quiet,
    save_adapter_bundle,
    verify,
)
from tuneloop.models.merge import compare_logits

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
IDS = torch.tensor([[5, 9, 200, 31, 7]])


@pytest.fixture
def adapter(tiny: Callable[..., Path], tmp_path: Path) -> Bundle:
    base = Path(shutil.copytree(tiny("qwen2", "chatml"), tmp_path / "base"))
    torch.manual_seed(0)
    with quiet():
        model = add_adapter(load_model(base), peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return save_adapter_bundle(
        tmp_path / "adapter", model, load_tokenizer(base), base, {"name": "toy", "licence": "mit"}
    )


def test_a_merged_bundle_computes_what_the_adapter_did(adapter: Bundle, tmp_path: Path) -> None:
    merged = merge_bundle(adapter, tmp_path / "out")
    expected = load_model(adapter, merge=False)(IDS).logits
    torch.testing.assert_close(load_model(merged.bundle)(IDS).logits, expected, atol=1e-5, rtol=0)


def test_a_merged_bundle_says_what_it_is(adapter: Bundle, tmp_path: Path) -> None:
    merged = merge_bundle(adapter, tmp_path / "out").bundle
    facts = merged.manifest["facts"]
    assert (merged.kind, merged.precision, merged.name) == ("model", "float32", "toy")
    assert facts["licence"] == "mit"
    assert facts["merged_from"]["version"] == adapter.version
    assert facts["parity"]["greedy_agreement"] == 1.0
    verify(merged)


def test_16_bit_is_written_on_request(adapter: Bundle, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    merged = merge_bundle(adapter, tmp_path / "out", dtype="bfloat16")
    assert {w.dtype for w in load_file(merged.bundle.path / "model.safetensors").values()} == {torch.bfloat16}


def test_a_merge_that_is_another_model_is_not_written(
    adapter: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Any) -> Any:
        return model.base_model.unload()

    monkeypatch.setattr("tuneloop.models.merge.merge_adapter", wrong)
    with pytest.raises(ModelError, match="not the same model"):
        merge_bundle(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_nan_is_refused(adapter: Bundle) -> None:
    model: Any = load_model(adapter, merge=False)
    with torch.no_grad():
        model.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight.fill_(float("nan"))
    from tuneloop.models import merge_adapter

    with pytest.raises(ModelError, match="NaN or infinity"):
        merge_adapter(model)


def test_a_model_has_nothing_to_merge(adapter: Bundle, tmp_path: Path) -> None:
    assert adapter.base is not None
    with pytest.raises(ModelError, match="nothing to merge"):
        merge_bundle(open_bundle(adapter.base), tmp_path / "out")


def test_a_folder_with_other_things_is_not_replaced(adapter: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="taken by something else"):
        merge_bundle(adapter, tmp_path / "mine")


def test_4_bit_is_no_dtype_to_merge_into(adapter: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nf4' is unknown"):
        merge_bundle(adapter, tmp_path / "out", dtype="nf4")


def test_parity_counts_greedy_tokens() -> None:
    """Two of four positions have another most likely token."""
    before = torch.eye(4) * 0.1
    parity = compare_logits([before], [before[[0, 1, 3, 2]]], "bfloat16")
    assert (parity.greedy_agreement, parity.positions, parity.ok) == (0.5, 4, False)
    assert parity.max_difference == pytest.approx(0.1)


def test_parity_of_nan_fails() -> None:
    logits = torch.eye(4)
    assert not compare_logits([logits], [logits * float("nan")], "bfloat16").ok


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_virtual_tokens_are_refused_before_anything_is_loaded(
    tiny: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    from tuneloop.train import TrainConfig
    from tuneloop.train.methods import METHODS

    base = tiny("llama", "chatml")
    model = METHODS[method](load_model(base), TrainConfig(method=method, prefix={"tokens": 5}))
    bundle = save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {})
    with pytest.raises(ModelError, match="the 5 virtual tokens of this adapter cannot be merged"):
        merge_bundle(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()
