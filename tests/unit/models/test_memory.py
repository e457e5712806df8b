from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import ARCHS, tiny_config, tiny_model
from tuneloop.errors import ModelError
from tuneloop.models import CATALOGUE, Dimensions, dimensions_of, estimate_inference_memory, estimate_memory, quiet
from tuneloop.models.memory import (
    LOGIT_CHUNK_TOKENS,
    RUNTIME_BYTES,
    layer_activations,
    lora_parameters,
    matrix_parameters,
    training_memory,
)

COMPUTED = [e for e in CATALOGUE.values() if e.family != "deepseek-v4"]
TOY = Dimensions(layers=2, hidden=4, heads=2, kv_heads=1, head_dim=2, intermediate=8, vocab=10)


@pytest.mark.parametrize("entry", COMPUTED, ids=lambda e: e.name)
def test_dimensions_and_published_parameter_counts_agree(entry: object) -> None:
    # Two independent statements: sizes of config.json, and the total that the hub counts in the weight files.
    # Norms and biases, which the formula leaves out, are below 0.03 %.
    counted, said = matrix_parameters(entry.dimensions), entry.parameters  # type: ignore[attr-defined]
    assert counted <= said
    assert counted == pytest.approx(said, rel=3e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_formula_counts_what_transformers_builds(arch: str) -> None:
    config = tiny_config(arch, vocab_size=50, layers=3)  # type: ignore[arg-type]
    model = tiny_model(arch, vocab_size=50, layers=3)  # type: ignore[arg-type]
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1)
    assert matrix_parameters(dimensions_of(config.to_dict())) == matrices


def test_lora_counts_rank_times_both_sides() -> None:
    # q 4x4, k 4x2, v 4x2, o 4x4: 8+6+6+8 = 28; gate, up 4x8, down 8x4: 36; two layers, rank 3: 3 * 2 * 64
    assert lora_parameters(TOY, 3) == 384


def test_lora_matches_peft() -> None:
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model

    with quiet():
        model = get_peft_model(tiny_model("qwen2", vocab_size=50), LoraConfig(r=4, target_modules="all-linear"))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert lora_parameters(dimensions_of(tiny_config("qwen2", vocab_size=50).to_dict()), 4) == trained


def test_full_training_by_hand() -> None:
    entry = CATALOGUE["smollm2-135m-instruct"]
    parts = training_memory(entry, "full", batch_tokens=10)
    assert (parts.weights, parts.gradients, parts.optimizer) == tuple(n * entry.parameters for n in (4, 4, 8))
    # 6*576 + 2*576 + 2*192 + 4*1536 = 11,136 numbers a token and layer; logits 10 * 49152 * 8 bytes
    assert parts.activations == 10 * 30 * 11136 * 4 + 10 * 49152 * 8
    assert parts.total_bytes == 16 * entry.parameters + parts.activations + RUNTIME_BYTES


@pytest.mark.parametrize("arch", ARCHS)
def test_activations_are_what_autograd_keeps(arch: str) -> None:
    """Oracle: the storages that PyTorch saves for backward; one layer more, the difference of the two."""
    import torch

    def kept_per_token(layers: int) -> float:
        model = tiny_model(arch, vocab_size=50, layers=layers).train()  # type: ignore[arg-type]
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dtype == torch.float32 and tensor.untyped_storage().data_ptr() not in weights:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(torch.arange(40)[None])
        assert output.logits.requires_grad
        return sum(t.untyped_storage().nbytes() for t in kept.values()) / 4 / 40

    sizes = dimensions_of(tiny_config(arch, vocab_size=50).to_dict())  # type: ignore[arg-type]
    assert layer_activations(sizes) == pytest.approx(kept_per_token(4) - kept_per_token(3), rel=0.1)


def test_methods_are_ordered_as_they_must_be() -> None:
    entry = CATALOGUE["deepseek-r1-distill-qwen-7b"]
    full, freeze, lora, qlora = (estimate_memory(entry, m, on_gpu=True) for m in ("full", "freeze", "lora", "qlora"))  # type: ignore[arg-type]
    assert full > freeze > lora > qlora
    assert estimate_memory(entry, "lora", on_gpu=True, checkpointing=True) < lora
    assert estimate_memory(entry, "lora", on_gpu=False) > lora


def test_qlora_of_the_7b_distill_fits_a_16_gb_card_and_full_training_an_80_gb_card_does_not_hold() -> None:
    entry = CATALOGUE["deepseek-r1-distill-qwen-7b"]
    assert estimate_memory(entry, "qlora", on_gpu=True, checkpointing=True) < 16e9
    assert estimate_memory(entry, "full", on_gpu=True, checkpointing=True) > 80e9


def test_logits_are_counted_for_labels_and_at_most_a_chunk() -> None:
    entry = CATALOGUE["smollm2-135m-instruct"]
    few, some, many = (
        training_memory(entry, "lora", batch_tokens=8000, labelled_tokens=n).activations for n in (10, 1024, 8000)
    )
    assert some - few == (LOGIT_CHUNK_TOKENS - 10) * 49152 * 8
    assert some == many


def test_inference_is_weights_cache_and_runtime() -> None:
    entry = CATALOGUE["smollm2-135m-instruct"]
    # 30 layers * 2 * 3 heads * 64 = 11,520 numbers a token, two bytes each; Q8_0 keeps 34 bytes for 32 weights
    wanted = math.floor(entry.parameters * 34 / 32) + 100 * 11520 * 2 + RUNTIME_BYTES
    assert estimate_inference_memory(entry, "q8_0", context_tokens=100) == wanted
    with pytest.raises(ModelError, match="'int3' is unknown"):
        estimate_inference_memory(entry, "int3")


def test_latent_attention_caches_the_latent() -> None:
    # DeepSeek-V2, table 1 of its paper: (512 + 64) numbers a token and layer
    assert CATALOGUE["deepseek-v3"].dimensions.cache_values_per_token == 61 * 576


def test_a_folder_and_its_configuration_are_read(tiny: Callable[..., Path], tmp_path: Path) -> None:
    sizes = dimensions_of(tiny("deepseek_v3", "r1-distill"))
    assert (sizes.layers, sizes.hidden, sizes.experts, sizes.kv_lora, sizes.head_dim) == (2, 64, 4, 16, 24)
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        dimensions_of(tmp_path)
    with pytest.raises(ModelError, match="does not say 'hidden_size'"):
        dimensions_of({"model_type": "mamba"})
