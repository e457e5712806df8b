"""A tiny random llama as GGUF, written with the ``gguf`` package: for engines that read nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np

from tests.tiny import Style, tiny_tokenizer, tokenizer_json

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, CONTEXT = 2, 64, 128, 4, 2, 512


def tiny_gguf(
    folder: Path, style: Style = "chatml", seed: int = 0, matrices: Literal["f32", "f16", "q8_0"] = "f32"
) -> Path:
    """Write ``model.<matrices>.gguf``, tokenizer and template into a folder; returns the folder. Vectors stay float32."""
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(style)
    tokenizer.save_pretrained(folder)
    writer = gguf.GGUFWriter(folder / f"model.{matrices}.gguf", "llama")
    writer.add_tags(["random", "tests"])  # an array of strings in front of the numbers, as in published files
    writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(matrices, f"MOSTLY_{matrices.upper()}")])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokenizer))
    _add_vocabulary(writer, tokenizer, style)
    rng = np.random.default_rng(seed)
    for name, shape in _shapes(len(tokenizer)).items():
        value = np.ones(shape) if "norm" in name else rng.normal(0.0, 0.1, shape)
        kind = gguf.GGMLQuantizationType["F32" if value.ndim == 1 else matrices.upper()]
        writer.add_tensor(name, gguf.quants.quantize(value.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def _add_vocabulary(writer: object, tokenizer: object, style: Style) -> None:
    import gguf

    data = json.loads(tokenizer_json(style))
    added = {t["id"]: t["content"] for t in data["added_tokens"]}
    words = sorted(data["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [word for word, index in words if index not in added]
    types = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(added)
    writer.add_tokenizer_model("gpt2")  # type: ignore[attr-defined]
    writer.add_tokenizer_pre("default")  # type: ignore[attr-defined]
    writer.add_token_list([*tokens, *(added[i] for i in sorted(added))])  # type: ignore[attr-defined]
    writer.add_token_types(types)  # type: ignore[attr-defined]
    merges = data["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])  # type: ignore[attr-defined]
    writer.add_eos_token_id(tokenizer.eos_token_id)  # type: ignore[attr-defined]


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (vocabulary, HIDDEN),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (HIDDEN,),
            f"blk.{layer}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k.weight": (KV_HEADS * head, HIDDEN),
            f"blk.{layer}.attn_v.weight": (KV_HEADS * head, HIDDEN),
            f"blk.{layer}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_norm.weight": (HIDDEN,),
            f"blk.{layer}.ffn_gate.weight": (INNER, HIDDEN),
            f"blk.{layer}.ffn_up.weight": (INNER, HIDDEN),
            f"blk.{layer}.ffn_down.weight": (HIDDEN, INNER),
        }
    return shapes
