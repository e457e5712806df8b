"""Which layers take adapters: a model's own names, by kind, for any architecture.

    attention   linear layers below a module named for attention (DeepSeek: q_a_proj, q_b_proj or q_proj,
                kv_a_proj_with_mqa, kv_b_proj, o_proj)
    mlp         every other linear layer of a block, the shared experts among them
    experts     the routed experts' 3-D parameters
    head        the output head, only by name
The router of a mixture of experts never takes one: a moving router forgets its balance.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ConfigError
from tuneloop.train.methods.decoder import layers_of
from tuneloop.train.sections import LoraConfig

if TYPE_CHECKING:
    from torch import nn

TUTORIAL_TARGETS = {
    "query_key_value": "is a layer of GPT-NeoX, BLOOM and old ChatGLM; DeepSeek, Qwen and Llama have q_proj, k_proj, v_proj",
    "c_attn": "is a layer of GPT-2 and the first Qwen; DeepSeek, Qwen2 and Llama have q_proj, k_proj, v_proj",
    "W_pack": "is a layer of Baichuan; DeepSeek, Qwen and Llama have q_proj, k_proj, v_proj",
}
ROUTERS = ("gate", "router", "shared_expert_gate")
"""Last name parts of routers, also where they are linear layers."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What takes adapters.

    Args:
        modules: Names as PEFT matches them: a last part shared by layers that are all meant, else whole paths.
        parameters: The same for 3-D parameters.
        weights: Whole name of every weight that is reached.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    weights: frozenset[str]


def linear_layers(model: nn.Module) -> Counter[str]:
    """Last name part of every linear layer but head and routers -> how many there are."""
    return Counter(_last(name) for name, kind in _layers(model).items() if kind in ("attention", "mlp"))


def resolve_targets(model: nn.Module, config: LoraConfig) -> Targets:
    """The layers that a configuration means in this model.

    Raises:
        ConfigError: A target that matches nothing (the message lists what exists), a head that is the embedding, or more
            layers than there are.
    """
    layers = _layers(model) if config.last_layers is None else _of_last(model, config.last_layers)
    if isinstance(config.targets, str):
        kinds = {"all-linear": ("attention", "mlp"), "attention": ("attention",), "mlp": ("mlp",)}[config.targets]
        if config.experts and "mlp" in kinds:
            kinds = (*kinds, "experts")
        chosen = {name for name, kind in layers.items() if kind in kinds}
        if not chosen:
            raise _nothing(config.targets, layers)
    else:
        chosen = {name for target in config.targets for name in _named(target, layers)}
    if tied := [n for n in chosen if layers[n] == "head" and _is_tied(model)]:
        raise ConfigError(
            f"{tied[0]} is the embedding of this model: an adapter on it could not be merged",
            where="train.lora.targets",
            hint="leave it out; all-linear does",
        )
    experts = {n for n in chosen if layers[n] == "experts"}
    modules = chosen - experts
    parameters = [n for n, _ in model.named_parameters()]
    return Targets(
        _shortest(modules, [n for n, _ in model.named_modules()], _last),
        _shortest(experts, parameters, _two_last),
        frozenset(experts | {f"{n}.weight" for n in modules}),
    )


def coverage(model: nn.Module, targets: Targets) -> dict[str, float]:
    """Share of the model's weights that adapters reach, 0 to 1: of each kind, and of 'the model' as a whole.

    Call it before the adapters are put on.
    """
    layers = _layers(model)
    total, reached = Counter[str](), Counter[str]()
    for name, size in _sizes(model).items():
        kind = layers.get(name) or layers.get(name.removesuffix(".weight")) or _rest(name)
        for counted in (kind, "the model"):
            total[counted] += size
            reached[counted] += size if name in targets.weights else 0
    order = ("the model", "attention", "mlp", "experts", "embeddings and head", "router")
    total["embeddings and head"] += total.pop("head", 0)
    reached["embeddings and head"] += reached.pop("head", 0)
    return {kind: reached[kind] / total[kind] for kind in order if total[kind]}


def _layers(model: nn.Module) -> dict[str, str]:
    """Whole name of everything that can take an adapter -> its kind."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, stored the other way round

    named: Any = model
    head = named.get_output_embeddings()
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if _last(name) == "experts":
            found |= {f"{name}.{n}": "experts" for n, p in module.named_parameters(recurse=False) if p.dim() == 3}
        elif module is head:
            found[name] = "head"
        elif isinstance(module, (nn.Linear, Conv1D)) and _last(name) not in ROUTERS:
            found[name] = "attention" if any(_is_attention(part) for part in name.split(".")[:-1]) else "mlp"
    return found


def _named(target: str, layers: dict[str, str]) -> list[str]:
    """What a name means: linear layers first ('down_proj'), else parameters ('experts.down_proj', 'gate_up_proj')."""
    found = [n for n in layers if n == target or n.endswith(f".{target}")]
    linear = [n for n in found if layers[n] != "experts"]
    if not found:
        raise _nothing(target, layers)
    return linear or found


def _nothing(target: str, layers: dict[str, str]) -> ConfigError:
    there = sorted({_last(n) if kind != "experts" else _two_last(n) for n, kind in layers.items()})
    near = difflib.get_close_matches(target, there, 1)
    why = f"{target!r} {TUTORIAL_TARGETS.get(target, 'matches no layer')}"
    if target.rpartition(".")[2] in ROUTERS:
        why = f"{target!r} is no target: the router stays as it is, or it forgets its balance"
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(why, where="train.lora.targets", hint=f"{hint}this model has: {', '.join(there)}")


def last_layers(model: nn.Module, count: int, where: str, otherwise: str) -> list[nn.Module]:
    """The last layers of the decoder.

    Raises:
        ConfigError: There are not so many; ``where`` names the setting, ``otherwise`` ends the hint.
    """
    layers = layers_of(model)
    there = len(layers)
    if count > there:
        raise ConfigError(
            f"the last {count} layers of a model that has {there}", where=where, hint=f"at most {there}; {otherwise}"
        )
    return layers[there - count :]


def _of_last(model: nn.Module, count: int) -> dict[str, str]:
    """``_layers`` of the last layers of the decoder."""
    chosen = last_layers(model, count, "train.lora.last_layers", "for all layers leave it out")
    below = tuple(f"{name}." for name, module in model.named_modules() if any(module is layer for layer in chosen))
    return {name: kind for name, kind in _layers(model).items() if name.startswith(below)}


def _shortest(chosen: Iterable[str], there: Iterable[str], short: Callable[[str], str]) -> tuple[str, ...]:
    """Short names where all of that short name are chosen (what other tools read), else whole names."""
    all_of: dict[str, set[str]] = defaultdict(set)
    for name in there:
        all_of[short(name)].add(name)
    chosen = set(chosen)
    return tuple(sorted({short(n) if all_of[short(n)] <= chosen else n for n in chosen}))


def _sizes(model: nn.Module) -> dict[str, int]:
    """Elements of every parameter; 4-bit weights are stored packed, so linear layers are asked for their shape."""
    from torch import nn

    sizes = {name: p.numel() for name, p in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" in sizes:
            sizes[f"{name}.weight"] = module.in_features * module.out_features
    return sizes


def _rest(name: str) -> str:
    """Kind of a parameter that takes no adapter."""
    parts = name.split(".")
    if len(parts) > 1 and parts[-2] in ROUTERS:
        return "router"
    return "embeddings and head" if any("embed" in part or part in ("wte", "wpe") for part in parts) else "other"


def _is_tied(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and embedding is not None and head.weight is embedding.weight


def _is_attention(part: str) -> bool:
    return "attn" in part or "attention" in part


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _two_last(name: str) -> str:
    return ".".join(name.rsplit(".", 2)[-2:])
