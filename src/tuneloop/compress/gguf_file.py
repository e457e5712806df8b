"""A transformers model as a GGUF file, written with the ``gguf`` package.

Names, metadata keys and the reordering of Llama's query and key rows follow llama.cpp's ``convert_hf_to_gguf.py``; the
test reads the file back with transformers' own GGUF loader.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ModelError, need
from tuneloop.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2"}
"""model_type of transformers -> name in ``gguf.MODEL_ARCH``. R1-Distill models are one of these."""

BLOCK = 32
"""Q8_0 quantises rows in blocks of this many weights (ggml-common.h, QK8_0)."""


def write_gguf(model: Any, tokenizer: Any, path: Path, quantisation: str, *, name: str) -> None:
    """Write weights, tokenizer and chat template into one file.

    Args:
        model: A transformers causal model, adapters merged.
        tokenizer: Its fast byte-level BPE tokenizer.
        path: The file to write.
        quantisation: ``q8_0``, ``f16`` or ``f32``; vectors always stay float32.
        name: ``general.name`` of the file.

    Raises:
        ModelError: An architecture or a tokenizer that this writer does not know.
    """
    gguf: Any = need("gguf", "train")
    config = model.config
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"GGUF export of {config.model_type!r} is not supported", hint=f"supported: {', '.join(ARCHITECTURES)}"
        )
    arch = getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.model_type])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    try:
        file_type = {"q8_0": "MOSTLY_Q8_0", "f16": "MOSTLY_F16", "f32": "ALL_F32"}[quantisation]
        writer.add_name(name)
        writer.add_file_type(getattr(gguf.LlamaFileType, file_type))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config)
        _add_tokenizer(writer, gguf, tokenizer, config.vocab_size)
        tensors = list(_tensors(model))
        names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
        with Progress(f"writing {path.name}", len(tensors), "tensors") as bar:
            for hf_name, tensor in tensors:
                target = names.get_name(hf_name, try_suffixes=(".weight", ".bias")) or hf_name
                data, kind = _encode(gguf, tensor, quantisation)
                writer.add_tensor(target, data, raw_dtype=kind)
                bar.update()
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_shape(writer: Any, config: Any) -> None:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    rope = config.rope_parameters
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        raise ModelError(f"GGUF export of rope type {rope['rope_type']!r} is not supported", hint="serve it unexported")
    writer.add_rope_freq_base(rope["rope_theta"])


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight in llama.cpp's layout; a tied output head is left out, llama.cpp ties it again."""
    config = model.config
    tied = bool(config.tie_word_embeddings)
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = _interleave(tensor, heads)
        yield name, tensor
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config, rope)


def _interleave(weight_OI: Tensor, heads: int) -> Tensor:
    """Rows of each head from transformers' (first half, second half) to llama.cpp's (pairs) order of rotary dimensions."""
    rows, columns = weight_OI.shape
    return weight_OI.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _llama3_factors(config: Any, rope: dict[str, Any]) -> Tensor:
    """Divisors of the rotary frequencies: Llama 3.1's long-context rule, as in transformers' ``_compute_llama3_parameters``."""
    import torch

    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    old = rope["original_max_position_embeddings"]
    out = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        if wavelength < old / high:
            out.append(1.0)
        elif wavelength > old / low:
            out.append(factor)
        else:
            smooth = (old / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(out)


def _encode(gguf: Any, tensor: Tensor, quantisation: str) -> tuple[np.ndarray[Any, Any], Any]:
    data = tensor.detach().float().cpu().numpy()
    kinds = gguf.GGMLQuantizationType
    if data.ndim < 2 or quantisation == "f32":
        return data, kinds.F32
    kind = kinds.Q8_0 if quantisation == "q8_0" and data.shape[-1] % BLOCK == 0 else kinds.F16
    return gguf.quants.quantize(data, kind), kind


def _add_tokenizer(writer: Any, gguf: Any, tokenizer: Any, vocab_size: int) -> None:
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if spec["model"]["type"] != "BPE" or "ByteLevel" not in json.dumps(spec["decoder"]):
        raise ModelError("GGUF export needs a byte-level BPE tokenizer", hint="serve this model unexported")
    special = {t["id"]: t["special"] for t in spec["added_tokens"]}
    by_id = {i: t for t, i in tokenizer.get_vocab().items()}
    kinds = gguf.TokenType
    tokens, types = [], []
    for i in range(vocab_size):
        tokens.append(by_id.get(i, f"[PAD{i}]"))
        if i not in by_id:
            types.append(kinds.UNUSED)
        elif i in special:
            types.append(kinds.CONTROL if special[i] else kinds.USER_DEFINED)
        else:
            types.append(kinds.NORMAL)
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(spec))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for kind, token in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if token is not None:
            getattr(writer, f"add_{kind}_token_id")(token)
    writer.add_add_bos_token(False)  # templates write it; the engine takes token ids anyway
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(spec: dict[str, Any]) -> str:
    """llama.cpp's name for how text is split before BPE. Matters to programs that give it text instead of token ids."""
    rules = json.dumps(spec["pre_tokenizer"])
    if "individual_digits" in rules:
        return "smollm"
    if "\\\\p{N}{1,3}" in rules:
        return "llama-bpe"
    return "qwen2" if "\\\\p{N}" in rules else "gpt-2"
