"""Adapters on disk: what PEFT reads, and what it would lose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneloop.errors import ModelError
from tuneloop.models import add_adapter, load_model, load_tokenizer, quiet, save_adapter_bundle

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

DENSE = ("down_proj", "gate_proj", "up_proj")


@pytest.fixture
def base(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("deepseek_v3", "chatml"), tmp_path / "base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    settings = peft.LoraConfig(r=2, target_modules=["o_proj", *DENSE], lora_dropout=0.1, task_type="CAUSAL_LM")
    with quiet():
        model = add_adapter(load_model(base), settings)
    return save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {}).path


def settings_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())  # type: ignore[no-any-return]


def test_dense_layers_of_a_mixture_are_saved_where_peft_keeps_them(adapter: Path) -> None:
    settings = settings_of(adapter)
    assert settings["target_modules"] == ["o_proj"]
    assert settings["target_parameters"] == [f"{name}.weight" for name in DENSE]


def test_dropout_that_peft_would_refuse_on_parameters_is_not_saved(adapter: Path) -> None:
    assert settings_of(adapter)["lora_dropout"] == 0.0


def test_they_are_ordinary_layers_when_loaded_here(adapter: Path) -> None:
    model: Any = load_model(adapter, merge=False)
    assert type(model.base_model.model.model.layers[0].mlp.gate_proj) is peft.tuners.lora.Linear


def test_they_can_be_trained_on(adapter: Path) -> None:
    trained = [n for n, p in load_model(adapter, merge=False).named_parameters() if p.requires_grad]
    assert {n.split(".")[-4] for n in trained} == {"o_proj", *DENSE}
    assert all(".lora_" in n for n in trained)


def test_targets_of_models_without_experts_are_plain_names(tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny("llama", "chatml")
    with quiet():
        model = add_adapter(load_model(base), peft.LoraConfig(r=2, target_modules=["q_proj", *DENSE]))
    saved = save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {})
    assert settings_of(saved.path)["target_modules"] == ["down_proj", "gate_proj", "q_proj", "up_proj"]


def test_tensors_that_peft_would_drop_are_an_error(adapter: Path) -> None:
    """An adapter whose dense layers stand among the modules, as other tools write it."""
    settings = settings_of(adapter) | {"target_modules": ["o_proj", *DENSE], "target_parameters": None}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with (
        pytest.warns(UserWarning, match="missing adapter keys"),
        pytest.raises(ModelError, match="find no place in the model"),
    ):
        load_model(adapter)


def test_a_pickled_adapter_is_refused(adapter: Path) -> None:
    torch.save({}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="not in safetensors"):
        load_model(adapter)


def test_peft_is_left_as_it_was() -> None:
    from peft.utils import transformers_weight_conversion as conversion

    from tuneloop.models.adapters import exact_targets

    before = conversion.convert_peft_config_for_transformers
    with pytest.raises(RuntimeError), exact_targets():
        raise RuntimeError
    assert conversion.convert_peft_config_for_transformers is before
