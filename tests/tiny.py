"""Tiny models and tokenizers, made on the spot: random weights, real architectures, real chat templates. No network.

    folder = tiny_folder("qwen2", "chatml", tmp_path)      a Hugging Face folder of about 100 KB
    tokenizer = tiny_tokenizer("r1-distill")
    model = tiny_model("llama", vocab_size=len(tokenizer))

The templates render what the published ones render for system, user and assistant messages; their tool parts are left
out. Sources: Llama-3 model card; Qwen2-Instruct and DeepSeek-R1-Distill ``tokenizer_config.json``; SmolLM2-Instruct.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

Style = Literal["llama3", "chatml", "r1-distill", "smollm"]
Arch = Literal["llama", "qwen2", "deepseek_v2", "deepseek_v3"]
STYLES: tuple[Style, ...] = ("llama3", "chatml", "r1-distill", "smollm")
ARCHS: tuple[Arch, ...] = ("llama", "qwen2", "deepseek_v2", "deepseek_v3")

TEMPLATES: dict[Style, str] = {
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "r1-distill": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{% set ns = namespace(system_prompt='') %}"
        "{%- for message in messages %}{%- if message['role'] == 'system' %}"
        "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
        "{%- for message in messages %}{%- if message['role'] == 'user' %}"
        "{{'<｜User｜>' + message['content']}}{%- endif %}"
        "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
        "{% set content = message['content'] %}"
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
    ),
    "smollm": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
        "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}

# (bos, eos, pad, special tokens, added tokens that are not special, does the tokenizer itself put bos in front)
_TOKENS: dict[Style, tuple[str | None, str, str, tuple[str, ...], tuple[str, ...], bool]] = {
    "llama3": (
        "<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
         "<|end_header_id|>", "<|eot_id|>"), (), True,
    ),
    "chatml": (
        None, "<|im_end|>", "<|endoftext|>", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), (), False,
    ),
    "r1-distill": (
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"),
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"), True,
    ),
    "smollm": (
        "<|im_start|>", "<|im_end|>", "<|im_end|>", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), (), False,
    ),
}  # fmt: skip

_TEXT = [
    "You are a helpful assistant of a bank. Answer with the name of the intent and nothing else.",
    "system user assistant I lost my card yesterday, please block it as soon as possible!",
    "Why was I charged twice for the same transfer? The money has not arrived in my account yet.",
    "The answer is forty two, and the question is unknown. Let me think about it step by step.",
    "我的银行卡丢了，请尽快帮我挂失。请问为什么同一笔转账扣了我两次钱？",
    "你是一名医生助理，请回答病人的问题。头疼、发烧、咳嗽，应该挂哪个科室？",
]


@functools.cache
def tokenizer_json(style: Style) -> str:
    """The content of tokenizer.json: a byte-level BPE of about 600 tokens trained on a few sentences."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bos, _, _, special, added, puts_bos = _TOKENS[style]
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in added])
    if puts_bos and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return str(tokenizer.to_str())


def tiny_tokenizer(style: Style = "chatml") -> Any:
    """A fast tokenizer with the style's special tokens and chat template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    bos, eos, pad, *_ = _TOKENS[style]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json(style)),
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    tokenizer.chat_template = TEMPLATES[style]
    return tokenizer


def tiny_config(arch: Arch, *, vocab_size: int, layers: int = 2, hidden: int = 64, **more: Any) -> Any:
    """A transformers configuration of the real architecture with toy sizes."""
    import transformers as hf

    common: dict[str, Any] = {
        "vocab_size": vocab_size, "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "dtype": "float32",
    }  # fmt: skip
    latent: dict[str, Any] = {
        "num_key_value_heads": 4, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    }  # fmt: skip
    if arch == "llama":
        return hf.LlamaConfig(**common | more)
    if arch == "qwen2":
        return hf.Qwen2Config(**common | more)
    if arch == "deepseek_v2":
        return hf.DeepseekV2Config(**common | latent | {"q_lora_rank": None} | more)
    return hf.DeepseekV3Config(**common | latent | {"q_lora_rank": 32} | more)


def tiny_model(arch: Arch = "qwen2", *, vocab_size: int, seed: int = 0, **more: Any) -> Any:
    """A random model (float32, evaluation mode); the same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(arch, vocab_size=vocab_size, **more))
    return model.float().eval()


def tiny_folder(
    arch: Arch = "qwen2", style: Style = "chatml", tmp: Path | str = ".", *, seed: int = 0, **more: Any
) -> Path:
    """A Hugging Face folder ``<tmp>/tiny-<arch>-<style>`` with safetensors, tokenizer and template.

    The generation configuration ends at the style's end of turn, as in the published models.
    """
    tokenizer = tiny_tokenizer(style)
    model = tiny_model(arch, vocab_size=len(tokenizer), seed=seed, **more)
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    folder = Path(tmp) / f"tiny-{arch}-{style}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_llama_gguf(folder: Path, path: Path) -> None:
    """A float32 GGUF of a tiny Llama with its tokenizer, by llama.cpp's tensor names, permutation and vocabulary keys.

    Written apart from the product's own writer, so that reading can be tested without it.
    """
    import json

    import gguf
    from safetensors.torch import load_file
    from transformers import AutoConfig, PreTrainedTokenizerFast

    config, tokenizer = AutoConfig.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(config.head_dim)
    out.add_vocab_size(config.vocab_size)
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    out.add_tokenizer_model("gpt2")
    out.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    out.add_token_types(
        [int(gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL) for i in range(len(tokenizer))]
    )
    merges = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    out.add_token_merges([" ".join(pair) for pair in merges])
    for add, value in (
        (out.add_bos_token_id, tokenizer.bos_token_id),
        (out.add_eos_token_id, tokenizer.eos_token_id),
        (out.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if value is not None:
            add(value)
    out.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in load_file(folder / "model.safetensors").items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # llama.cpp interleaves the two halves of each rotary head
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        out.add_tensor(names.get_name(name, (".weight",)), weight.contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
