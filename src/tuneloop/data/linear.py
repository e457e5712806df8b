"""A linear model over hashed character n-grams: small enough to ship, fast enough for every row.

p = 1 / (1 + exp(-(bias + Σ weights[bucket] / √n)))    over the n n-grams of a text
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuneloop.data.ngrams import Array, buckets, buckets_of, chunks, folded, folded_text

if TYPE_CHECKING:
    import polars as pl

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class LinearModel:
    """Probability of one class.

    ``weights`` float32 [2**bits]; ``bias`` a number; ``orders`` the lengths of its n-grams.
    """

    weights: Array
    bias: float
    orders: tuple[int, ...]

    @property
    def bits(self) -> int:
        return len(self.weights).bit_length() - 1

    def probabilities(self, texts: pl.Series) -> Array:
        """One for each text, float64 [texts]; a text without n-grams gets that of the bias."""
        parts = [self._scores(folded(part)) for part in chunks(texts)]
        scores = np.concatenate(parts) if parts else np.zeros(0)
        return np.asarray(1.0 / (1.0 + np.exp(-scores)))

    def probability(self, text: str) -> float:
        """Of one text; what ``probabilities`` gives for a series of one."""
        index = buckets_of(folded_text(text), self.orders, self.bits)
        total = float(self.weights[index].sum(dtype=np.float64)) / math.sqrt(max(len(index), 1))
        return 1.0 / (1.0 + math.exp(-(self.bias + total)))

    def _scores(self, texts: pl.Series) -> Array:
        index, counts = buckets(texts, self.orders, self.bits)
        sums = np.concatenate([[0.0], np.cumsum(self.weights[index], dtype=np.float64)])
        ends = np.cumsum(counts)
        return np.asarray(self.bias + (sums[ends] - sums[ends - counts]) / np.sqrt(np.maximum(counts, 1)))

    def save(self, path: Path) -> None:
        """Write it with half-precision weights."""
        np.savez_compressed(
            path,
            weights=self.weights.astype(np.float16),
            bias=np.float32(self.bias),
            orders=np.array(self.orders, dtype=np.int32),
        )


@lru_cache(maxsize=4)
def load(name: str) -> LinearModel:
    """A model that ships with Tuneloop."""
    with np.load(WEIGHTS / f"{name}.npz", allow_pickle=False) as kept:
        orders = tuple(int(n) for n in kept["orders"])
        return LinearModel(kept["weights"].astype(np.float32), float(kept["bias"]), orders)
