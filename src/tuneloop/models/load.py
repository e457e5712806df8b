"""A model folder -> a transformers model and tokenizer. Never remote code, never pickles, never half a model."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ModelError, first_line, need
from tuneloop.models.adapters import merge_adapter, read_adapter
from tuneloop.models.bundle import Bundle, need_base, open_bundle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

OVERFLOWS_FLOAT16 = frozenset({"qwen2", "qwen3", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"})
"""Trained in bfloat16; their activations leave float16's range (65,504) and the loss becomes NaN."""

_VOCABULARIES = ("tokenizer.model", "vocab.json", "tekken.json")


def load_model(
    source: Bundle | Path | str,
    *,
    merge: bool = True,
    dtype: str = "auto",
    device: str = "auto",
    four_bit: bool = False,
) -> PreTrainedModel:
    """Load a model, in evaluation mode.

    Args:
        source: A bundle or its folder. GGUF is dequantised.
        merge: Fold an adapter into its base (in memory); otherwise a ``peft.PeftModel`` is returned.
        dtype: ``auto`` (float32 on a CPU, bfloat16 on a GPU), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (the first GPU if there is one), ``cpu``, ``cuda`` ...
        four_bit: Keep the linear layers in 4 bits (bitsandbytes NF4 with double quantisation; a GPU only), to train
            adapters over them. Never for serving or merging.

    Raises:
        ModelError: The folder is broken, incomplete or of an architecture that transformers does not know; a dtype
            that this family overflows; 4 bits asked of an adapter or a GGUF; a merge of virtual tokens (prefix,
            prompt tuning).
    """
    need("torch", "train")
    need("transformers", "train")
    bundle = source if isinstance(source, Bundle) else open_bundle(source)
    place = _device(device)
    if four_bit and bundle.kind != "model":
        raise ModelError(
            f"a bundle of kind {bundle.kind!r} cannot be the base of 4-bit training",
            where=str(bundle.path),
            hint="merge the adapter first: tuneloop merge" if bundle.kind == "adapter" else "give the original weights",
        )
    if bundle.kind == "adapter":
        if merge:
            need_mergeable(bundle)
        base = load_model(need_base(bundle), dtype=dtype, device=str(place))
        return _with_adapter(base, bundle, merge)
    return _load_weights(bundle, dtype, place, four_bit)


def need_mergeable(bundle: Bundle) -> None:
    """Refuse an adapter that no weights can hold.

    Raises:
        ModelError: It is virtual tokens (prefix, prompt tuning).
    """
    if bundle.virtual_tokens:
        raise ModelError(
            f"the {bundle.virtual_tokens} virtual tokens of this adapter cannot be merged into weights",
            where=str(bundle.path),
            hint="serve it as it is with the engine transformers (and set compress: null); to export, train with method: lora",
        )


def load_tokenizer(source: Bundle | Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer of a bundle, exactly as ``tokenizer.json`` says (an adapter without one has its base's).

    Raises:
        ModelError: There is none.
    """
    transformers = need("transformers", "train")
    bundle = source if isinstance(source, Bundle) else open_bundle(source)
    try:
        with quiet():
            if (bundle.path / "tokenizer.json").is_file():
                # Not AutoTokenizer: it may rebuild the splitting rules from a class name in the configuration
                # (LlamaTokenizerFast in DeepSeek's), and then the tokens are not the ones the model was trained on.
                return transformers.PreTrainedTokenizerFast.from_pretrained(bundle.path, local_files_only=True)
            if bundle.kind == "adapter":
                return load_tokenizer(need_base(bundle))
            extra = {"gguf_file": bundle.gguf_file.name} if bundle.kind == "gguf" else {}
            if not extra and not any((bundle.path / name).is_file() for name in _VOCABULARIES):
                raise ValueError("there is no vocabulary file")  # AutoTokenizer would make an empty one
            return transformers.AutoTokenizer.from_pretrained(
                bundle.path, local_files_only=True, trust_remote_code=False, **extra
            )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise ModelError(
            f"the tokenizer cannot be loaded: {first_line(error)}",
            where=str(bundle.path),
            hint="the folder needs tokenizer.json and tokenizer_config.json of the model",
        ) from error


def _load_weights(bundle: Bundle, dtype: str, place: Any, four_bit: bool) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    extra: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if bundle.kind == "gguf":
        extra["gguf_file"] = bundle.gguf_file.name
    try:
        with quiet():
            config = AutoConfig.from_pretrained(bundle.path, **extra)
            if getattr(config, "is_encoder_decoder", False):
                raise ModelError(
                    f"{config.model_type} is an encoder-decoder model, and only decoders (causal language models) are supported",
                    where=str(bundle.path),
                    hint="give a decoder, e.g. smollm2-135m-instruct; tuneloop doctor lists others",
                )
            kind = _dtype(dtype, place, str(config.model_type), bundle.path)
            if four_bit:
                extra |= {"quantization_config": _nf4(kind), "device_map": {"": place}}
            model, report = AutoModelForCausalLM.from_pretrained(
                bundle.path, dtype=kind, use_safetensors=True, output_loading_info=True, **extra
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"the model cannot be loaded: {first_line(error)}",
            where=str(bundle.path),
            hint="fetch or copy the folder again; an architecture this new may need: pip install -U transformers",
        ) from error
    if missing := sorted(report.get("missing_keys") or ()):
        raise ModelError(
            f"{len(missing)} weights are missing ({missing[0]} ...): they would be random numbers",
            where=str(bundle.path),
            hint="fetch or copy the folder again",
        )
    if bundle.kind == "gguf":
        forget_quantization(model)
    if place.type != "cpu" and not four_bit:  # 4-bit layers are packed on their way to the GPU
        model = model.to(place)
    return model.eval()


def _nf4(compute_dtype: Any) -> Any:
    """4-bit normal floats whose scales are quantised too: 4.127 bits a weight (Dettmers et al., 2023, section 3)."""
    return need("transformers", "train").BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def forget_quantization(model: Any) -> None:
    """Make a dequantised GGUF model an ordinary one; transformers refuses to save it before."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def _with_adapter(base: Any, bundle: Bundle, merge: bool) -> Any:
    need("peft", "train")
    trainable = not merge and not bundle.virtual_tokens  # PEFT goes on with every kind but virtual tokens
    try:
        with quiet():
            model = read_adapter(base, bundle.path, trainable=trainable)
            return (merge_adapter(model) if merge else model).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"the adapter does not fit its base: {first_line(error)}",
            where=str(bundle.path),
            hint=f"check that {bundle.base} is the model it was trained on",
        ) from error


def _device(device: str) -> Any:
    import torch

    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(dtype: str, place: Any, family: str, path: Path) -> Any:
    import torch

    if dtype == "auto":
        on_gpu = place.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if on_gpu else torch.float32
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ModelError(f"dtype {dtype!r} is unknown", hint="use auto, float32 or bfloat16")
    if dtype == "float16" and family in OVERFLOWS_FLOAT16:
        raise ModelError(
            f"{family} overflows float16: its activations exceed 65,504 and turn into NaN",
            where=str(path),
            hint="use bfloat16 (same size) or float32",
        )
    return getattr(torch, dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """transformers and PEFT without progress bars, advice and notes to each other; errors still come out."""
    from transformers.utils import logging as hf

    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    level, bars, tqdm = hf.get_verbosity(), hf.is_progress_bar_enabled(), gguf.tqdm
    hf.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    gguf.tqdm = partial(tqdm, disable=True)  # the one bar that disable_progress_bar() does not reach
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 still asks for the old name of a property of transformers 5
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            # PEFT turns gate_proj, up_proj into one fused expert parameter and then misses its own pattern among layers
            warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys.*gate_up_proj.*")
            yield
    finally:
        gguf.tqdm = tqdm
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
