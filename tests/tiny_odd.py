"""Tiny random models whose tokens meet in more ways than plain attention, or that see only some tokens back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny import tiny_tokenizer

_COMMON = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "head_dim": 16,
}  # fmt: skip
_LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"], "num_experts": 0,
}  # fmt: skip
BEYOND_FLAT: dict[str, dict[str, Any]] = {
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 512},
    "mamba": {"hidden_size": 64, "state_size": 8, "num_hidden_layers": 2},
    "lfm2": {**_COMMON, "layer_types": ["conv", "full_attention"]},
    "qwen3_next": {**_COMMON, **_LINEAR},
    "gemma2": {**_COMMON, "sliding_window": 12, "query_pre_attn_scalar": 16},
    "gpt_oss": {**_COMMON, "sliding_window": 12, "num_local_experts": 2, "num_experts_per_tok": 1},
    "granite": {**_COMMON, "logits_scaling": 4.0},
    "openai-gpt": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "doge": {**_COMMON, "num_experts": 0},
    "diffllama": _COMMON,
}
"""What each does: its own attention, a state, a convolution, capped or scaled logits, sinks, no cache at all, masks made
from the tokens, two attentions a layer."""

WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {**_COMMON, "sliding_window": 12},
    "gemma3_text": {**_COMMON, "sliding_window": 12, "query_pre_attn_scalar": 16,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "olmo3": {**_COMMON, "sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip


def odd_folder(name: str, tmp: Path) -> Path:
    """A Hugging Face folder with weights large enough that attention to the wrong tokens changes the answer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer("chatml")
    ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **{**BEYOND_FLAT, **WINDOWS}[name], **ends)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
    folder = tmp / name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
