"""Whether a text is new: neither in the real data nor made before, exactly or nearly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tuneloop.data.minhash import near_pairs
from tuneloop.data.steps.exact import compared_text

_HASH_SEED = 0


class Novelty:
    """Compares new texts with all real ones and with each other.

    Of the real rows only a 64-bit hash each stays in memory; for near-duplicates they are read again, part by part.

    Args:
        real: Frames of real rows: the training split, and what is held out. Each is read more than once.
        threshold: Jaccard similarity, as ``near_duplicates`` measures it, from which two texts count as the same.
    """

    def __init__(self, real: Sequence[Iterable[pl.DataFrame]], threshold: float) -> None:
        self._frames, self._threshold = real, threshold
        hashes = [compared_text(part).hash(_HASH_SEED).to_numpy() for part in chain.from_iterable(real)]
        self._real: NDArray[np.uint64] = np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
        self._made: list[str] = []

    def problems(self, rows: pl.DataFrame) -> list[str | None]:
        """Why each new row is not new (``category: detail``), or None. Of two that are alike the first is new."""
        texts = compared_text(rows).to_list()
        out = self._exact(texts)
        left = [k for k, problem in enumerate(out) if problem is None]
        for k, problem in zip(left, self._near([texts[k] for k in left]), strict=True):
            out[k] = problem
        return out

    def add(self, rows: pl.DataFrame) -> None:
        """These rows were taken: later ones must differ from them."""
        self._made += compared_text(rows).to_list()

    def _exact(self, texts: Sequence[str]) -> list[str | None]:
        real = np.isin(pl.Series(texts, dtype=pl.String).hash(_HASH_SEED).to_numpy(), self._real)
        seen = set(self._made)
        out: list[str | None] = []
        for text, known in zip(texts, real, strict=True):
            out.append(
                "duplicate: of a real row" if known else "duplicate: of another new row" if text in seen else None
            )
            seen.add(text)
        return out

    def _near(self, texts: Sequence[str]) -> list[str | None]:
        out: list[str | None] = [None] * len(texts)
        if not texts:
            return out
        for part in chain.from_iterable(self._frames):
            self._compare(compared_text(part).to_list(), texts, "a real row", out)
        self._compare(self._made, texts, "another new row", out)
        for i, j, similarity in self._similar(texts):  # ordered by the later one, so that i is judged before j
            if out[i] is None and out[j] is None:
                out[j] = f"near-duplicate: {similarity:.2f} similar to another new row"
        return out

    def _compare(self, known: Sequence[str], new: Sequence[str], what: str, out: list[str | None]) -> None:
        for _, j, similarity in self._similar([*known, *new], len(known)):
            if out[j - len(known)] is None:
                out[j - len(known)] = f"near-duplicate: {similarity:.2f} similar to {what}"

    def _similar(self, texts: Sequence[str], known: int | None = None) -> Iterator[tuple[int, int, float]]:
        """Similar pairs (i < j); with ``known`` only those of one of the first ``known`` texts and one of the others."""
        pairs = near_pairs(pl.Series(texts, dtype=pl.String), self._threshold)
        if known is not None:
            pairs = pairs.filter(pl.col("i") < known, pl.col("j") >= known)
        return pairs.iter_rows()
