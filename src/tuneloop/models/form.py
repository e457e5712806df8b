"""The form in which a model is computed: as one flat row (flat.py), or the way transformers writes it.

The flat form knows a model as layers whose tokens meet in attention and nowhere else, behind one output head. What else a
model does, it would leave out without an error, so such models are told apart here, before anything is computed.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from tuneloop.errors import ModelError
from tuneloop.models.flat import ATTENTION, causal_model, register

_LAYERS = {"full_attention", "sliding_attention"}
_MODELS = {"doge", "diffllama"}
"""Masks made from the tokens; two attentions a layer. Their classes say neither."""
_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def beyond_flat(model: nn.Module) -> str | None:
    """What this model does that the flat form does not know (a verb phrase); None when it knows all of it.

    transformers says which models compute attention through its interface, and which need no more for it than queries,
    keys, values and a mask (``_supports_sdpa``: not Gemma 2's soft cap, not gpt-oss' sinks). A state that runs from token
    to token (Mamba, linear attention, short convolutions) would carry one row into the next.
    """
    inner: Any = causal_model(model)
    text = inner.config.get_text_config()
    kinds = sorted(set(getattr(text, "layer_types", None) or ()) - _LAYERS)
    if inner._is_stateful or kinds:
        return f"has layers that are more than attention ({', '.join(kinds) or 'recurrent ones'})"
    if not (inner._supports_attention_backend and inner._supports_sdpa) or text.model_type in _MODELS:
        return "computes attention in a way of its own"
    changed = [name for name in _LOGITS if getattr(text, name, None)]
    return f"changes its logits after the head ({changed[0]})" if changed else None


def window_tokens(model: nn.Module) -> int | None:
    """How many tokens back, itself counted, a token sees in layers with a sliding window; None without such layers."""
    inner: Any = causal_model(model)
    text = inner.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(text, "use_sliding_window", True)
    window: int | None = getattr(text, "sliding_window", None)
    return window or None if slides else None


def use_flat(model: nn.Module, *, hint: str) -> None:
    """Set the model's attention to the flat form.

    Raises:
        ModelError: The model does what that form does not know; ``hint`` says what to do.
    """
    inner: Any = causal_model(model)
    if why := beyond_flat(model):
        raise ModelError(f"{type(inner).__name__} {why}, which rows without padding do not know", hint=hint)
    register()
    inner.set_attn_implementation(ATTENTION)


def use_own(model: nn.Module, attention: str | None = None) -> None:
    """Set the model's attention to transformers' own (or ``attention``): PyTorch's, where the model can use it."""
    inner: Any = causal_model(model)
    wanted = attention or ("sdpa" if inner._supports_sdpa else "eager")
    if inner.config._attn_implementation != wanted:  # models that cannot change it warn of every attempt
        inner.set_attn_implementation(wanted)
