"""An adapter and its base as one ordinary model folder, proven to compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ConfigError, ModelError
from tuneloop.models.adapters import merge_adapter
from tuneloop.models.bundle import Bundle, need_base, open_bundle, seal, verify
from tuneloop.models.folder import read_object, staging
from tuneloop.models.load import load_model, load_tokenizer, need_mergeable, quiet
from tuneloop.progress import log, track

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = (
    "The quick brown fox jumps over the lazy dog, and then",
    "I lost my card yesterday. Please tell me what to do.",
    "What is 17 times 23? Let me think step by step.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Translate to French: Where is the nearest hospital?",
    "我的银行卡丢了，请尽快帮我挂失。",
    '{"name": "get_weather", "arguments": {"city": "',
    "1. Apples\n2. Pears\n3.",
)
"""Texts of several kinds; the model's own greedy continuations are compared with them."""
CONTINUED_TOKENS = 16

LIMITS = {"float32": (1e-5, 1.0), "bfloat16": (0.01, 0.97), "float16": (0.01, 0.97)}
"""Dtype of the merged weights -> largest mean KL (nats a token) and smallest greedy agreement that pass. In float32 only
the order of the sums differs; 16-bit weights may differ by as much as a compressed bundle's (``CompressConfig``)."""


@dataclass(frozen=True, slots=True)
class MergeParity:
    """Merged against unmerged (in float32) over ``positions`` next-token distributions of ``prompts`` texts.

    ``max_difference`` is the largest |logit - logit|, KL is KL(unmerged || merged) in nats, ``greedy_agreement`` the
    share of positions with the same most likely token.
    """

    prompts: int
    positions: int
    max_difference: float
    mean_kl: float
    greedy_agreement: float
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged bundle and its proof."""

    bundle: Bundle
    dtype: str
    parity: MergeParity


def merge_bundle(adapter: Bundle, out: Path, *, dtype: str = "auto", device: str = "auto") -> Merged:
    """Merge an adapter bundle into its base: summed in float32, rounded once, written, read back, compared.

    The model is held once, in float32 (4 bytes a weight).

    Args:
        adapter: The adapter; a base that was trained over in 4 bits is merged from its 16-bit weights.
        out: The folder to write; a bundle there is replaced when the new one is good.
        dtype: ``auto`` (the base's), ``float32`` or ``bfloat16``.
        device: Where to compute; see ``load_model``.

    Raises:
        ModelError: Not an adapter, virtual tokens, a damaged one, or one whose merged form is not the same model: nothing is written.
        ConfigError: ``out`` holds something else.
    """
    if adapter.kind != "adapter":
        raise ModelError(
            f"there is nothing to merge: this is a bundle of kind {adapter.kind!r}",
            where=str(adapter.path),
            hint="give the folder with adapter_config.json",
        )
    need_mergeable(adapter)
    if out.exists() and not (out / "tuneloop.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError("this place is taken by something else", where=str(out), hint="give another --out")
    verify(adapter)
    base = need_base(adapter)
    kind = _dtype(dtype, base)
    tokenizer = load_tokenizer(adapter)
    log(f"  merging {adapter.name} into {base.name} in float32, written as {kind}")
    model: Any = load_model(adapter, merge=False, dtype="float32", device=device)
    texts = _continued(model, [tokenizer(text).input_ids for text in PROMPTS])
    before = [_logits_TV(model, ids) for ids in track(texts, "logits of the adapter", unit="prompts")]
    model = _write_ready(merge_adapter(model), kind)
    with staging(out) as folder:
        with quiet():
            model.save_pretrained(folder, safe_serialization=True)
            tokenizer.save_pretrained(folder)
        del model
        again = load_model(folder, dtype="float32", device=device)
        after = [_logits_TV(again, ids) for ids in track(texts, "logits of the merged model", unit="prompts")]
        parity = compare_logits(before, after, kind)
        if not parity.ok:
            raise ModelError(
                f"the merged model is not the same model: {parity.reason}",
                where=str(adapter.path),
                hint="nothing was written; serve the adapter as it is, or merge with --dtype float32",
            )
        merged_from = {"version": adapter.version, "path": str(adapter.path.resolve())}
        facts = {**adapter.manifest.get("facts", {}), "merged_from": merged_from, "parity": asdict(parity)}
        seal(folder, "model", facts, precision=kind, base=base)
    log(f"  parity: {parity.reason}")
    return Merged(open_bundle(out), kind, parity)


def compare_logits(before: Sequence[Tensor], after: Sequence[Tensor], dtype: str) -> MergeParity:
    """Parity of float32 logits (a T x V tensor for each text), judged by the limits of ``dtype``.

    Anything not finite fails.
    """
    import torch

    p_NV, q_NV = torch.cat(list(before)), torch.cat(list(after))
    largest = float((p_NV - q_NV).abs().max())
    p, q = p_NV.log_softmax(-1), q_NV.log_softmax(-1)
    mean_kl = float((p.exp() * (p - q)).sum(-1).mean())
    agreement = float((p_NV.argmax(-1) == q_NV.argmax(-1)).float().mean())
    max_kl, min_agreement = LIMITS[dtype]
    failures = [
        text
        for passed, text in (
            (mean_kl <= max_kl, f"mean KL {mean_kl:.2g} > {max_kl:g}"),
            (agreement >= min_agreement, f"greedy agreement {agreement:.1%} < {min_agreement:.0%}"),
        )
        if not passed
    ]
    reason = "; ".join(failures) or (
        f"greedy tokens {'equal' if agreement == 1 else f'equal at {agreement:.1%}'}, mean KL {max(mean_kl, 0):.2g} nats"
        f", largest |logit difference| {largest:.2g} over {len(p_NV)} positions"
    )
    return MergeParity(len(before), len(p_NV), largest, mean_kl, agreement, not failures, reason)


def _dtype(asked: str, base: Path) -> str:
    if asked not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"dtype {asked!r} is unknown", where="--dtype", hint="use auto, float32 or bfloat16")
    if asked != "auto":
        return asked
    config = read_object(base / "config.json")
    said = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return said if said in LIMITS else "bfloat16"


def _write_ready(model: Any, dtype: str) -> Any:
    """Weights in the dtype that is written; buffers (the router's correction bias) stay as precise as they are."""
    import torch

    kind = getattr(torch, dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(kind)
    model.config.dtype = kind
    return model


def _continued(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each prompt and what the model answers, taking the most likely token each time."""
    import torch

    texts: list[list[int]] = []
    with torch.inference_mode():
        for prompt in track(prompts, "answers of the adapter", unit="prompts"):
            ids = list(prompt)
            for _ in range(CONTINUED_TOKENS):
                ids.append(int(_last_logits_V(model, ids).argmax()))
            texts.append(ids)
    return texts


def _last_logits_V(model: Any, ids: Sequence[int]) -> Tensor:
    return _logits_TV(model, ids)[-1]


def _logits_TV(model: Any, ids: Sequence[int]) -> Tensor:
    """Float32 logits of one text, on the CPU."""
    import torch

    with torch.inference_mode():
        row_1T = torch.tensor([list(ids)], device=model.device)
        logits: Tensor = model(input_ids=row_1T, use_cache=False).logits[0].float().cpu()
    return logits
