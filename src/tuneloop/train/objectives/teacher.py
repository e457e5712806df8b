"""What is known of a teacher: its distribution at every label position, from the model itself or from the disk.

The student's tokens are given to the teacher as they are, so both must mean the same tokens by the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tuneloop.errors import ModelError
from tuneloop.models import causal_model, hidden_states, use_flat, use_own
from tuneloop.train.batch import Batch
from tuneloop.train.objectives.divergence import seen_through, soften
from tuneloop.train.objectives.plain import label_logits
from tuneloop.types import Example


class Teacher(Protocol):
    """Gives what a loss needs of it, in two steps: once for a batch, then for each chunk of its predictions."""

    def known(self, examples: Sequence[Example], batch: Batch | None) -> tuple[Tensor, ...]:
        """Tensors with one entry for each of the N predictions of a batch (in the order of ``batch.collate``).

        ``batch`` is the flat row, or None where the loss is computed from padded rows.
        """

    def pair(self, logits_NV: Tensor, known: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Softened log-probabilities of teacher and student over the same events (N x E each)."""


class LiveTeacher:
    """A model that runs beside the student, in evaluation mode and without gradients.

    Args:
        model: The teacher. It is frozen and set to the attention that fits.
        width: Tokens of the shared vocabulary.
        temperature: Of the softening.
        padding_free: Whether it sees flat rows or padded ones.

    Raises:
        ModelError: It does what the flat form does not know.
    """

    def __init__(self, model: nn.Module, *, width: int, temperature: float, padding_free: bool = True) -> None:
        self.model, self.width, self.temperature, self.flat = model, width, temperature, padding_free
        model.eval().requires_grad_(False)
        arrange(model, padding_free)

    @torch.no_grad()
    def known(self, examples: Sequence[Example], batch: Batch | None) -> tuple[Tensor, ...]:
        """Hidden states at the label positions of a flat row; logits at those of padded rows."""
        if batch is None:
            return (label_logits(self.model, examples)[0],)
        weight = next(self.model.parameters())
        own = batch.to(weight.device, weight.dtype)
        return (hidden_states(self.model, own.input_ids_1T, own.layout)[0].index_select(0, own.source_N),)

    def pair(self, logits_NV: Tensor, known: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        teacher_NV = self.log_probs(known).to(logits_NV.device)
        return teacher_NV, soften(logits_NV, self.temperature, self.width)

    @torch.no_grad()
    def log_probs(self, known: Sequence[Tensor]) -> Tensor:
        """Softened log-probabilities (N x width, float32) from what ``known`` gave."""
        head: Any = causal_model(self.model)
        logits_NV = head.lm_head(known[0]) if self.flat else known[0]
        return soften(logits_NV, self.temperature, self.width)


def read_through(logits_NV: Tensor, known: Sequence[Tensor], temperature: float, width: int) -> tuple[Tensor, Tensor]:
    """``Teacher.pair`` of one whose k best tokens and log-probabilities (with the rest's) are ``known``."""
    tokens_Nk, teacher_NE = known
    return teacher_NE, seen_through(soften(logits_NV, temperature, width), tokens_Nk)


def arrange(model: nn.Module, padding_free: bool) -> None:
    """Set the model's attention to the flat form or to transformers' own.

    Raises:
        ModelError: The model does what the flat form does not know.
    """
    if padding_free:
        use_flat(model, hint="set train.memory.padding_free=false for this model")
    else:
        use_own(model)


def shared_width(student: Any, teacher: Any, tokens: int) -> int:
    """Logits that mean the same in both models: embeddings may be padded to different sizes beyond the vocabulary.

    Args:
        student: A model.
        teacher: A model.
        tokens: Size of the vocabulary that they share.

    Raises:
        ModelError: One of them has fewer logits than the vocabulary has tokens.
    """
    widths: list[int] = [m.get_output_embeddings().weight.shape[0] for m in (student, teacher)]
    if min(widths) < tokens:
        raise ModelError(
            f"the vocabulary has {tokens:,} tokens; the student has logits for {widths[0]:,}, the teacher for {widths[1]:,}",
            where="train.distil.teacher",
            hint="use the tokenizer that the model was trained with",
        )
    return min(widths)


def check_vocabulary(student: Any, teacher: Any) -> int:
    """The size of the vocabulary (highest id + 1) when both tokenizers mean the same tokens by the same ids.

    Raises:
        ModelError: They do not.
    """
    ours: dict[str, int] = student.get_vocab()
    theirs: dict[str, int] = teacher.get_vocab()
    if ours != theirs:
        differ = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
        first = differ[0]
        raise ModelError(
            f"teacher and student have different vocabularies ({len(differ):,} tokens differ; {first!r} is "
            f"{theirs.get(first, 'unknown')} to the teacher and {ours.get(first, 'unknown')} to the student)",
            where="train.distil.teacher",
            hint="take a teacher of the same family; from another one a student can learn by answers that it wrote (sft)",
        )
    if _merges(student) != _merges(teacher):
        raise ModelError(
            "teacher and student cut texts into tokens differently (their merges differ)",
            where="train.distil.teacher",
            hint="take a teacher of the same family, with the same tokenizer.json",
        )
    return max(ours.values()) + 1


def _merges(tokenizer: Any) -> Any:
    """How pieces are joined: the merges of BPE, the scores of Unigram."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model.get("merges") or ()]
    return model.get("type"), pairs, model.get("vocab") if model.get("type") == "Unigram" else None
