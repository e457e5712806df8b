"""NEFTune: uniform noise on the embeddings while training (Jain et al., 2023, arXiv:2310.05914, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from tuneloop.models import causal_model
from tuneloop.train.batch import ROUND
from tuneloop.types import Example

if TYPE_CHECKING:
    from tuneloop.train.objectives import Objective


class Noisy:
    """An objective whose model sees noisy embeddings in training mode; validation sees none.

    Every row has noise of its own, uniform in (-1, 1) times alpha / sqrt(L d), L being the row's own length and d the
    width of the embedding: padding or neighbours in a flat row do not change it. So rows cannot share a beginning (the
    same tokens carry different noise in each row): the objective inside must not share prefixes.

    The noise is drawn row by row from torch's generator on the embedding's device, whose state is in every checkpoint:
    a resumed run draws what an uninterrupted one would have drawn, and the flat form draws what the padded one draws.

    Args:
        objective: Computes the loss.
        alpha: Strength; the paper uses 5 to 15.
    """

    def __init__(self, objective: Objective, alpha: float) -> None:
        self.objective, self.alpha = objective, alpha

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        if not model.training:
            return self.objective(model, examples)
        lengths = [len(e.input_ids) for e in examples]

        def add(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
            return embedded + self._noise(lengths, embedded)

        inner: Any = causal_model(model)
        handle = inner.get_input_embeddings().register_forward_hook(add)
        try:
            return self.objective(model, examples)
        finally:
            handle.remove()

    def _noise(self, lengths: Sequence[int], embedded: Tensor) -> Tensor:
        """Noise for a flat row (1 x T x C: rows one after another, then what fills it up, which gets none) or for padded
        rows (B x T x C, none on padding).
        """
        width = embedded.shape[-1]
        rows = [
            torch.empty(n, width, device=embedded.device, dtype=torch.float32).uniform_(-1, 1)
            * (self.alpha / math.sqrt(n * width))
            for n in lengths
        ]
        padded = embedded.shape[:2] == (len(lengths), max(lengths))
        noise = pad_sequence(rows, batch_first=True) if padded else torch.cat(rows)[None]
        filling = embedded.shape[1] - noise.shape[1]
        assert 0 <= filling < ROUND, "rows share beginnings, or are not laid out one after another"
        return pad(noise, (0, 0, 0, filling)).to(embedded.dtype)
