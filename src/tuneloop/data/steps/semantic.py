"""Rows that mean the same in other words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, field_validator

from tuneloop.data import embedding
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.digests import judging_order, places
from tuneloop.data.steps.exact import compared_text
from tuneloop.data.steps.judging import Judge, facts
from tuneloop.progress import Progress

Array = NDArray[Any]
HASHING = "hashing"
_ROWS, _COLUMNS = 512, 8_192
_ROUNDING = 1e-4
"""Float32 products so near the threshold are computed again in float64."""
_EQUAL = 1e-9
"""What rounding takes from the cosine of a vector with itself."""


class SemanticDuplicates(WholeBase):
    """Drops a row whose meaning is at least ``threshold`` similar (cosine) to that of an earlier kept row.

    A similarity of meaning is an opinion of the model: "transfer failed" and "transfer succeeded" are close in every
    embedding. Read the dropped rows in the report before you trust a threshold. Every row is compared with every kept row,
    so the time grows with the square of their number: some 100,000 rows are a matter of minutes, millions are not.
    Classes, prescribed sources and groups are treated as by ``near_duplicates``.
    """

    name: ClassVar[str] = "semantic_duplicates"

    threshold: float = Field(default=0.95, gt=0.0, le=1.0)
    """Cosine similarity from which two texts count as the same; its scale is the model's own."""

    model: str = HASHING
    """``hashing``: TF-IDF of character n-grams and latent semantic analysis, no model needed, blind to the order of words;
    or the folder of a sentence-embedding model (mean pooling)."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @field_validator("model")
    @classmethod
    def _there(cls, value: str) -> str:
        if value != HASHING and not (Path(value) / "config.json").is_file():
            raise ValueError(f"no model in {value!r}\nhint: a folder with config.json, or  model: hashing")
        return value

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        texts = compared_text(frame)
        if self.model == HASHING:
            return facts(frame).with_columns(text=texts)
        vectors = [row.tobytes() for batch in embedding.embed(texts, self.model) for row in batch]
        return facts(frame).with_columns(vector=pl.Series(vectors, dtype=pl.Binary))

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        order = judging_order(digests)
        if self.model == HASHING:
            vectors = embedding.analyse(digests, order) if len(order) else np.zeros((0, 1), dtype=np.float32)
        else:
            vectors = _read(digests, places(order))
        lost = int((~vectors.any(axis=1)).sum())
        if lost:
            self._notes.append(f"{lost:,} rows say nothing that their meaning could be judged by and were not compared")
        rows = digests.select("at", "id", "label", "pinned", "kind", "rank").collect().sort("rank", "at")
        judge = Judge(rows)
        found = _KeepFirst(vectors, judge, self.threshold)
        return judge.verdicts("semantic-duplicate", found.partner, found.similarity, *found.rivals()).sort("at")


def _read(digests: pl.LazyFrame, place: Array) -> Array:
    """The model's vectors in judging order, float32 [N, d]."""
    whole: Array = np.zeros((len(place), 1), dtype=np.float32)
    for start in range(0, len(place), 50_000):
        part = digests.select("vector").slice(start, 50_000).collect()["vector"].to_list()
        vectors = np.frombuffer(b"".join(part), dtype=np.float16).reshape(len(part), -1)
        if not start:
            whole = np.zeros((len(place), vectors.shape[1]), dtype=np.float32)
        whole[place[start : start + len(part)]] = vectors
    length = np.linalg.norm(whole, axis=1, keepdims=True)
    whole /= np.where(length > 0, length, 1)
    return whole


class _KeepFirst:
    """Rows in order, a block at a time, against all rows that were kept before: never more than a tile is held."""

    def __init__(self, vectors: Array, judge: Judge, threshold: float) -> None:
        rows = len(vectors)
        self.partner = np.full(rows, -1, dtype=np.int64)
        self.similarity = np.zeros(rows)
        self._vectors, self._judge, self._threshold = vectors, judge, threshold
        self._rivals: list[tuple[Array, Array]] = []
        kept = np.zeros(0, dtype=np.int64)
        with Progress("comparing meanings", rows, "rows") as progress:
            for start in range(0, rows, _ROWS):
                block = np.arange(start, min(start + _ROWS, rows))
                for first in range(0, len(kept), _COLUMNS):
                    self._drop(kept[first : first + _COLUMNS], block[self.partner[block] < 0])
                self._drop_inside(block[self.partner[block] < 0])
                kept = np.concatenate([kept, block[self.partner[block] < 0]])
                progress.update(len(block))

    def rivals(self) -> tuple[Array, Array]:
        """Pairs of kept rows that mean the same and differ in class."""
        none = np.zeros(0, dtype=np.int64)
        i, j = (np.concatenate([none, *(pair[side] for pair in self._rivals)]) for side in (0, 1))
        both = (self.partner[i] < 0) & (self.partner[j] < 0)
        return i[both], j[both]

    def _similar(self, i: Array, j: Array) -> tuple[Array, Array, Array]:
        """Pairs at or above the threshold, ordered by j and then i, with their similarities."""
        product = self._vectors[j] @ self._vectors[i].T
        b, a = np.nonzero(product >= self._threshold - _ROUNDING)
        similarity = product[b, a].astype(np.float64)
        close = np.flatnonzero(np.abs(similarity - self._threshold) <= _ROUNDING)
        for part in np.array_split(close, len(close) // 65_536 + 1):
            one, other = (self._vectors[x[part]].astype(np.float64) for x in (i[a], j[b]))
            scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            similarity[part] = np.einsum("pd,pd->p", one, other) / scale
        enough = similarity >= self._threshold - _EQUAL
        return i[a[enough]], j[b[enough]], similarity[enough]

    def _drop(self, i: Array, j: Array) -> None:
        """Rows j against rows i, all of which are kept."""
        i, j, similarity = self._similar(i, j)
        dropping, rivals = self._judge.relations(i, j)
        self._rivals.append((i[rivals], j[rivals]))
        gone, first = np.unique(j[dropping], return_index=True)
        self.partner[gone], self.similarity[gone] = i[dropping][first], similarity[dropping][first]

    def _drop_inside(self, block: Array) -> None:
        """Rows of one block against each other."""
        i, j, similarity = self._similar(block, block)
        earlier = i < j
        i, j, similarity = i[earlier], j[earlier], similarity[earlier]
        dropping, rivals = self._judge.relations(i, j)
        self._rivals.append((i[rivals], j[rivals]))
        for a, b, how in zip(i[dropping].tolist(), j[dropping].tolist(), similarity[dropping].tolist(), strict=True):
            if self.partner[a] < 0 and self.partner[b] < 0:
                self.partner[b], self.similarity[b] = a, how
