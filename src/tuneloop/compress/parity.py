"""Is the compressed model still the same model? Token ids, distributions, choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.progress import track

if TYPE_CHECKING:
    import torch


TOGETHER = 16
"""Sequences of one pass; their answers' logits are in memory at once."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Comparison over ``positions`` next-token distributions of ``prompts`` prompts.

    KL is KL(original || compressed) in nats; ``greedy_agreement`` the share of positions with the same most likely
    token; ``token_ids_equal`` whether the tokenizer in the file gives the same ids for every prompt.
    """

    prompts: int
    positions: int
    token_ids_equal: bool
    mean_kl: float
    p99_kl: float
    max_kl: float
    greedy_agreement: float
    perplexity_before: float
    perplexity_after: float
    ok: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    before: Any, after: Any, sequences: Sequence[tuple[tuple[int, ...], int]], *, token_ids_equal: bool
) -> Parity:
    """Run both models over the same sequences.

    Args:
        before: The original transformers model.
        after: The compressed weights, dequantised into a transformers model.
        sequences: Token ids of prompt and answer, and the index of the answer's first token; distributions are
            compared where answer tokens are predicted.
        token_ids_equal: Outcome of the tokenizer comparison.
    """
    import torch

    kl: list[torch.Tensor] = []
    same = 0
    nll = [0.0, 0.0]
    parts = [sequences[i : i + TOGETHER] for i in range(0, len(sequences), TOGETHER)]
    with torch.inference_mode():
        for part in track(parts, "comparing distributions", unit="batches"):
            target = torch.tensor([t for ids, first in part for t in ids[first:]], device=before.device)
            p, q = (_log_probabilities(m, part) for m in (before, after))
            kl.append((p.exp() * (p - q)).sum(-1))
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
            for i, logp in enumerate((p, q)):
                nll[i] -= float(logp.gather(1, target[:, None]).sum())
    all_kl = torch.cat(kl)
    n = len(all_kl)
    return Parity(
        prompts=len(sequences),
        positions=n,
        token_ids_equal=token_ids_equal,
        mean_kl=float(all_kl.mean()),
        p99_kl=float(all_kl.quantile(0.99)),
        max_kl=float(all_kl.max()),
        greedy_agreement=same / n,
        perplexity_before=float(torch.tensor(nll[0] / n).exp()),
        perplexity_after=float(torch.tensor(nll[1] / n).exp()),
    )


def _log_probabilities(model: Any, sequences: Sequence[tuple[tuple[int, ...], int]]) -> torch.Tensor:
    """Next-token log-probabilities (N x V, float32) where the answers are predicted; common beginnings run once."""
    import torch

    from tuneloop.models import Forest, hidden_states, layout, use_flat

    use_flat(model, hint="it cannot be compared")
    forest = Forest.grow([ids for ids, _ in sequences])
    at = [i for (_, first), places in zip(sequences, forest.places, strict=True) for i in places[first - 1 : -1]]
    row = torch.tensor([forest.tokens], device=model.device)
    hidden_TC = hidden_states(model, row, layout(forest.nodes).to(model.device, model.dtype))[0]
    logits_NV = model.lm_head(hidden_TC[torch.tensor(at, device=model.device)])
    return logits_NV.float().log_softmax(-1)  # type: ignore[no-any-return]
