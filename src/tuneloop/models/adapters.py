"""Adapters in PEFT's own format: put on, saved so that plain PEFT reads them as they were meant, loaded, merged.

PEFT 0.21 takes the targets ``gate_proj``, ``up_proj`` and ``down_proj`` of a mixture of experts for the names that the
experts had before transformers 5 fused them into 3-D parameters, and then leaves the dense layers of these names (the
shared experts, DeepSeek's first layers) without adapters. It does so when an adapter is made and when it is loaded,
for names, full paths and patterns alike. ``exact_targets`` takes targets at their word; in a saved adapter the dense
layers stand as ``target_parameters`` ("gate_proj.weight"), which PEFT leaves alone and which have the same tensors
under the same keys.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneloop.errors import ModelError, need

_WEIGHT = ".weight"


@contextmanager
def exact_targets() -> Iterator[None]:
    """Within it PEFT adapts the modules and parameters that a configuration names, and nothing else."""
    conversion: Any = importlib.import_module("peft.utils.transformers_weight_conversion")
    original = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = original


def add_adapter(model: Any, settings: Any) -> Any:
    """A PEFT model with new adapters exactly where ``settings`` (a ``peft.LoraConfig``) says; the base is frozen."""
    from tuneloop.models.experts import quicken_experts

    with exact_targets():
        adapted = need("peft", "train").get_peft_model(model, settings)
    quicken_experts(adapted)
    return adapted


def read_adapter(base: Any, folder: Path, *, trainable: bool) -> Any:
    """The PEFT model of a saved adapter over its base.

    Raises:
        ModelError: It is a pickle, or PEFT found no place for some of its tensors (it does not say so itself).
    """
    from tuneloop.models.experts import quicken_experts

    peft = need("peft", "train")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            "the adapter is not in safetensors, and Python pickles can run any code when they are read",
            where=str(folder),
            hint="convert it where you trust it: PeftModel.from_pretrained(...).save_pretrained(...)",
        )
    settings = peft.PeftConfig.from_pretrained(folder)
    if not _dense_of(settings):
        adapted = peft.PeftModel.from_pretrained(base, folder, is_trainable=trainable)
    else:
        _as_modules(settings)
        with exact_targets():
            adapted = peft.PeftModel.from_pretrained(base, folder, config=settings, is_trainable=trainable)
    if settings.peft_type == peft.PeftType.LORA:
        _need_all_read(adapted, folder)
    quicken_experts(adapted)
    return adapted


def portable_settings(model: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``adapter_config.json`` of a PEFT model in the form that plain PEFT reads as it was meant.

    Args:
        model: The ``peft.PeftModel``.
        settings: What PEFT wrote.
    """
    targets = settings.get("target_modules")
    if not isinstance(targets, list):
        return dict(settings)
    lost = [t for t in targets if _is_lost(model, t)]
    if not lost:
        return {**settings, "target_modules": sorted(targets)}
    parameters = {*(settings.get("target_parameters") or ()), *(t + _WEIGHT for t in lost)}
    # PEFT refuses dropout on parameters; it only matters while training, and the manifest keeps what it was
    return {
        **settings,
        "target_modules": sorted(set(targets) - set(lost)),
        "target_parameters": sorted(parameters),
        "lora_dropout": 0.0,
    }


def merge_adapter(model: Any) -> Any:
    """The ordinary model that a PEFT model computes: adapters become part of the weights.

    The sum is computed in float32 and rounded once, to the dtype of the weight.

    Raises:
        ModelError: The base is quantised (it would be rounded to 4 bits again), or the adapter holds NaN or infinity.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        raise ModelError(
            "an adapter cannot be merged into a quantised base: the sum would be rounded to 4 bits again",
            hint="tuneloop merge ADAPTER_FOLDER, which loads the base in 16 bits or better",
        )
    with torch.no_grad():
        for name, layer in model.named_modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            base = layer.get_base_layer()
            dtypes = {n: p.dtype for n, p in base.named_parameters(recurse=False)}
            base.float()
            layer.merge()
            for key, parameter in base.named_parameters(recurse=False):
                if not torch.isfinite(parameter).all():
                    raise ModelError(f"the adapter of {name} holds NaN or infinity", hint="train it again")
                parameter.data = parameter.data.to(dtypes[key])
    return model.base_model.unload()


def _is_lost(model: Any, target: str) -> bool:
    """Whether PEFT's conversion takes a target for something else (asked of PEFT itself: newer ones may not)."""
    conversion: Any = importlib.import_module("peft.utils.transformers_weight_conversion")
    settings = copy.copy(model.peft_config["default"])
    settings.target_modules, settings.target_parameters = {target}, set()
    settings.rank_pattern, settings.alpha_pattern = {}, {}
    try:
        conversion.convert_peft_config_for_transformers(settings, model=model.get_base_model(), conversions=None)
    except ValueError:  # it knows the name, and wants its fused partner too
        return True
    return target not in settings.target_modules


def _need_all_read(adapted: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
        there = set(tensors.keys())
    # tensors of single experts (adapters made before transformers 5) are fused under other names
    lost = sorted(k for k in there - set(get_peft_model_state_dict(adapted)) if ".experts." not in k)
    if lost:
        raise ModelError(
            f"{len(lost)} tensors of the adapter find no place in the model, e.g. {lost[0]}",
            where=str(folder),
            hint="it was made for another model or by a tool that names layers differently; train it again here",
        )


def _dense_of(settings: Any) -> list[str]:
    return [p for p in getattr(settings, "target_parameters", None) or () if p.endswith(_WEIGHT)]


def _as_modules(settings: Any) -> None:
    """Dense weights among the target parameters as the modules they belong to: ordinary adapters, cheaper to run."""
    dense = _dense_of(settings)
    settings.target_modules = {*(settings.target_modules or ()), *(p.removesuffix(_WEIGHT) for p in dense)}
    settings.target_parameters = sorted(set(settings.target_parameters) - set(dense)) or None
