"""How much memory a model needs, before anything is loaded. An estimate: it names its formula and its assumptions.

Training holds, for P parameters of which T are trained:

    weights       P · bytes of the dtype        (qlora: 4.127 bits a parameter of the layers, 16 for embeddings;
                                                 Dettmers et al. 2023, QLoRA, §3: NF4 and double quantisation)
    gradients     T · bytes
    optimizer     T · bytes · 2                 (AdamW: two moments in the weights' dtype; 8-bit: T · 2), and the moving
                                                 average of the weights, if one is kept, T · bytes
    activations   tokens · bytes · Σ over layers of what backward needs (``layer_activations``; counted as in Korthikanti
                  et al. 2022, Reducing Activation Recomputation, without the attention matrix, which fused attention
                  does not keep; on a CPU short rows do, a tenth more); with checkpointing one vector a layer, and
                  one layer whole
    logits        labelled tokens · vocab · 4 · 2, at most 1,024 tokens at a time (the loss is computed in chunks)
    runtime       0.6 GB                        (Python, PyTorch and its kernels)

full and freeze train in float32, lora and qlora hold the frozen weights in the device's dtype and train adapters in
float32; a ``dtype`` says otherwise. For DeepSeek-V4, whose
attention is of another kind (one shared head, grouped output, hyper-connections), adapters and activations are rough.
What the C library keeps of freed memory comes on top: glibc returns large activations only when
MALLOC_MMAP_THRESHOLD_ fixes its threshold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuneloop.errors import ModelError
from tuneloop.models.catalogue import Dimensions, Entry

Method = Literal["full", "freeze", "lora", "qlora"]
RUNTIME_BYTES = 600_000_000
LOGIT_CHUNK_TOKENS = 1024
BITS: Mapping[str, float] = {
    "float32": 32, "bfloat16": 16, "float16": 16, "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5.0, "q4_k_m": 4.85, "nf4": 4.127,
}  # fmt: skip
"""Bits a weight. GGUF: a block of 32 holds its quants and one (q8_0, q4_0) or two (q4_1) float16."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int

    @property
    def total_bytes(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.runtime


def estimate_memory(model: Entry | Mapping[str, Any] | Path, method: Method, **settings: Any) -> int:
    """Bytes needed to train; see ``training_memory`` for the settings."""
    return training_memory(model, method, **settings).total_bytes


def training_memory(
    model: Entry | Mapping[str, Any] | Path,
    method: Method,
    *,
    batch_tokens: int = 2048,
    labelled_tokens: int | None = None,
    lora_rank: int = 16,
    trained_layers: int | None = None,
    checkpointing: bool = False,
    on_gpu: bool = False,
    dtype: str | None = None,
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw",
    averaged: bool = False,
    trained_parameters: int | None = None,
) -> MemoryEstimate:
    """Memory to train, by part (formula in the module's docstring).

    Args:
        model: A catalogue entry, the content of a ``config.json``, or a model folder.
        method: full, freeze (the last ``trained_layers``), lora or qlora (rank ``lora_rank`` on every linear layer
            of the last ``trained_layers`` outside the routed experts).
        batch_tokens: Tokens in one forward pass.
        labelled_tokens: Of these, the ones with a label (default all).
        lora_rank: Rank of the adapters.
        trained_layers: Layers at the end that gradients reach; default all, or 2 of ``freeze``.
        checkpointing: Whether activations are recomputed.
        on_gpu: bfloat16 for frozen weights and activations instead of float32.
        dtype: Of all weights but adapters, and of activations; default as ``on_gpu`` says.
        optimizer: Two moments of full size, or of 8 bits.
        averaged: A moving average of what trains is kept.
        trained_parameters: How many train, where it is known better than by the method's formula.
    """
    sizes, total = dimensions_of(model), parameters_of(model)
    number = (2 if on_gpu else 4) if dtype is None else int(BITS[dtype] / 8)
    at_the_end = trained_layers or (2 if method == "freeze" else sizes.layers)
    layers = sizes.layers if method == "full" else min(at_the_end, sizes.layers)
    adapters = lora_parameters(sizes, lora_rank) * layers // sizes.layers
    whole = method in ("full", "freeze")
    own = number if whole and dtype is not None else 4
    trained = (
        trained_parameters
        if trained_parameters is not None
        else {
            "full": total,
            "freeze": min(total, layers * (total - embedding_parameters(sizes)) // sizes.layers),
            "lora": adapters,
            "qlora": adapters,
        }[method]
    )
    if method == "qlora":
        embeddings = embedding_parameters(sizes)
        weights = int((total - embeddings) * BITS["nf4"] / 8) + 2 * embeddings + 4 * trained
    else:
        weights = own * total if whole else number * total + 4 * trained
    one = layer_activations(sizes)
    kept = layers * sizes.hidden + one if checkpointing else layers * one
    logits = min(labelled_tokens or batch_tokens, LOGIT_CHUNK_TOKENS) * sizes.vocab * 8
    moments = trained * (2 if optimizer == "adamw_8bit" else 2 * own) + (own * trained if averaged else 0)
    return MemoryEstimate(weights, own * trained, moments, batch_tokens * kept * number + logits, RUNTIME_BYTES)


def estimate_inference_memory(
    model: Entry | Mapping[str, Any] | Path, precision: str = "bfloat16", *, context_tokens: int = 4096
) -> int:
    """Bytes to serve: weights in ``precision``, a 16-bit KV cache for ``context_tokens`` in all, the runtime.

    Raises:
        ModelError: An unknown precision.
    """
    if precision not in BITS:
        raise ModelError(f"precision {precision!r} is unknown", hint=f"one of {', '.join(BITS)}")
    cache = 2 * context_tokens * dimensions_of(model).cache_values_per_token
    return int(parameters_of(model) * BITS[precision] / 8) + cache + RUNTIME_BYTES


def embedding_parameters(sizes: Dimensions) -> int:
    return sizes.vocab * sizes.hidden * (1 if sizes.tied else 2)


def _attention_linears(s: Dimensions) -> list[tuple[int, int]]:
    """(inputs, outputs) of the attention's projections."""
    if s.kv_lora:
        nope = s.head_dim - s.rope_head_dim
        queries = [(s.hidden, s.q_lora), (s.q_lora, s.heads * s.head_dim)] if s.q_lora else []
        return [
            *(queries or [(s.hidden, s.heads * s.head_dim)]),
            (s.hidden, s.kv_lora + s.rope_head_dim),
            (s.kv_lora, s.heads * (nope + s.v_head_dim)),
            (s.heads * s.v_head_dim, s.hidden),
        ]
    width, kv_width = s.heads * s.head_dim, s.kv_heads * s.head_dim
    if s.q_lora:
        return [(s.hidden, s.q_lora), (s.q_lora, width), (s.hidden, kv_width), (width, s.hidden)]
    return [(s.hidden, width), (s.hidden, kv_width), (s.hidden, kv_width), (width, s.hidden)]


def _mlp_linears(s: Dimensions, *, dense: bool) -> list[tuple[int, int]]:
    """(inputs, outputs) of the gated MLP; of an expert layer only the shared experts."""
    width = s.intermediate if dense else s.shared_experts * s.expert_intermediate
    return [(s.hidden, width), (s.hidden, width), (width, s.hidden)] if width else []


def dense_layers(s: Dimensions) -> int:
    return s.dense_layers if s.experts else s.layers


def lora_parameters(s: Dimensions, rank: int) -> int:
    """rank · (inputs + outputs) of every linear layer outside the routed experts (Hu et al. 2021)."""
    ends = [dense_layers(s) * sum(i + o for i, o in _mlp_linears(s, dense=True))]
    ends.append((s.layers - dense_layers(s)) * sum(i + o for i, o in _mlp_linears(s, dense=False)))
    return rank * (sum(ends) + s.layers * sum(i + o for i, o in _attention_linears(s)))


def matrix_parameters(s: Dimensions) -> int:
    """Embeddings and every matrix of the layers, without norms and biases (for architectures up to DeepSeek-V3)."""
    attention = s.layers * sum(i * o for i, o in _attention_linears(s))
    dense = dense_layers(s) * sum(i * o for i, o in _mlp_linears(s, dense=True))
    routed = s.experts * (3 * s.hidden * s.expert_intermediate + s.hidden)  # and the router's row
    sparse = (s.layers - dense_layers(s)) * (sum(i * o for i, o in _mlp_linears(s, dense=False)) + routed)
    return embedding_parameters(s) + attention + dense + sparse


def layer_activations(s: Dimensions) -> int:
    """Numbers that one token keeps in one layer for the backward pass, all weights trained.

    Both residual inputs, their normed values before and after the norm's weight; queries, keys, values and attention
    output; gate, its activation, up and product of the MLP. Latent attention also keeps the latents and what it
    expands them to; routed experts also the copies that are sent to them and come back.
    """
    if s.kv_lora:
        expanded = s.heads * (s.head_dim - s.rope_head_dim + s.v_head_dim)
        latents = 2 * (s.q_lora + s.kv_lora + s.rope_head_dim)
        attention = 3 * s.heads * s.head_dim + s.heads * s.v_head_dim + expanded + latents
    else:
        attention = 2 * s.heads * s.head_dim + 2 * s.kv_heads * s.head_dim
    if s.experts:
        mlp = 4 * (s.active_experts + s.shared_experts) * s.expert_intermediate + 2 * s.active_experts * s.hidden
    else:
        mlp = 4 * s.intermediate
    return 6 * s.hidden + attention + mlp


def parameters_of(model: Entry | Mapping[str, Any] | Path) -> int:
    return model.parameters if isinstance(model, Entry) else matrix_parameters(dimensions_of(model))


def dimensions_of(model: Entry | Mapping[str, Any] | Path) -> Dimensions:
    """Sizes of a catalogue entry, of the content of a ``config.json``, or of a model folder.

    Raises:
        ModelError: The configuration does not say them.
    """
    if isinstance(model, Entry):
        return model.dimensions
    config = _read_config(model) if isinstance(model, Path) else model
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        rope = config.get("qk_rope_head_dim") or 0
        latent = config.get("kv_lora_rank") or 0
        head_dim = config["qk_nope_head_dim"] + rope if latent else config.get("head_dim") or hidden // heads
        return Dimensions(
            config["num_hidden_layers"],
            hidden,
            heads,
            config.get("num_key_value_heads") or heads,
            head_dim,
            config["intermediate_size"],
            config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            experts=config.get("n_routed_experts") or 0,
            active_experts=config.get("num_experts_per_tok") or 0,
            shared_experts=config.get("n_shared_experts") or 0,
            expert_intermediate=config.get("moe_intermediate_size") or 0,
            dense_layers=config.get("first_k_dense_replace") or 0,
            q_lora=config.get("q_lora_rank") or 0,
            kv_lora=latent,
            rope_head_dim=rope if latent else 0,
            v_head_dim=config.get("v_head_dim") or 0 if latent else 0,
        )
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"the model's configuration does not say {error}", hint="this architecture has no estimate yet"
        ) from None


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"config.json cannot be read: {error}", where=str(folder), hint="point to a model folder"
        ) from None
    return found
