"""Likely wrong labels: what a model that has not seen a row thinks of the row's label.

Confident learning (Northcutt, Jiang & Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021):
the threshold of a class is the mean confidence in it over the rows that carry it; a row whose confidence in another class
reaches that class's threshold is counted as an error. That estimates *how many* labels are wrong; *which* are is told best by
the confidence in the given label (Kuan & Mueller, "Model-agnostic label quality scoring to detect real-world label
errors", 2022).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tuneloop.data.ngrams import Array, buckets, chunks
from tuneloop.errors import need

_ORDERS = (1, 2, 3)
_BITS = 16
_DIMENSIONS = 256
_INVERSE_REGULARISATION = 10.0
_ITERATIONS = 50


@dataclass(frozen=True)
class Encoder:
    """Texts -> dense vectors: TF-IDF of hashed character n-grams, reduced (latent semantic analysis), of length 1."""

    idf: Array
    svd: Any

    @classmethod
    def fit(cls, texts: pl.Series, seed: int) -> Encoder:
        counts = _counts(texts)
        idf = np.log((1 + len(texts)) / (1 + np.bincount(counts.indices, minlength=1 << _BITS))) + 1
        dimensions = max(2, min(_DIMENSIONS, len(texts) - 1))
        svd = need("sklearn.decomposition", "quality").TruncatedSVD(dimensions, n_iter=2, random_state=seed)
        return cls(idf, svd.fit(_weighted(counts, idf)))

    def encode(self, texts: pl.Series) -> Array:
        """float32 [texts, dimensions]."""
        parts = [self.svd.transform(_weighted(_counts(part), self.idf)) for part in chunks(texts)]
        vectors = np.concatenate(parts) if parts else np.zeros((0, _DIMENSIONS))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


def _counts(texts: pl.Series) -> Any:
    """How often each n-gram occurs, CSR [texts, 2**_BITS]."""
    index, sizes = buckets(texts, _ORDERS, _BITS)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    ones = np.ones(len(index), dtype=np.float32)
    matrix = need("scipy.sparse", "quality").csr_matrix((ones, index, ends), shape=(len(texts), 1 << _BITS))
    matrix.sum_duplicates()
    return matrix


def _weighted(counts: Any, idf: Array) -> Any:
    weighted = counts.copy()
    weighted.data = np.sqrt(counts.data) * idf[counts.indices].astype(np.float32)
    squares = np.concatenate([[0.0], np.cumsum(weighted.data.astype(np.float64) ** 2)])
    lengths = np.sqrt(np.maximum(squares[weighted.indptr[1:]] - squares[weighted.indptr[:-1]], 1e-9))
    weighted.data /= np.repeat(lengths, np.diff(weighted.indptr)).astype(np.float32)
    return weighted


def fit_classifier(vectors: Array, labels: Array) -> Any:
    """Multinomial logistic regression.

    Args:
        vectors: float32 [rows, dimensions].
        labels: int [rows]: every class 0 … K-1 occurs.
    """
    model = need("sklearn.linear_model", "quality").LogisticRegression(
        C=_INVERSE_REGULARISATION, max_iter=_ITERATIONS, tol=1e-3
    )
    with warnings.catch_warnings():
        # Confidences are compared with each other: the last digits of the fit decide nothing.
        warnings.simplefilter("ignore", need("sklearn.exceptions", "quality").ConvergenceWarning)
        return model.fit(vectors, labels)


@dataclass(frozen=True, slots=True)
class Confidence:
    """What a model that has not seen the rows says about them: each array [rows]."""

    given: Array
    """Probability of the given label."""
    best: Array
    """The most likely class."""
    best_probability: Array

    @classmethod
    def of(cls, probabilities: Array, labels: Array) -> Confidence:
        """From probabilities [rows, classes] and the given labels [rows]."""
        rows = np.arange(len(labels))
        best = probabilities.argmax(axis=1)
        return cls(probabilities[rows, labels], best, probabilities[rows, best])


def estimated_errors(probabilities: Array, labels: Array) -> int:
    """How many labels are wrong: the off-diagonal of the confident joint.

    Args:
        probabilities: [rows, classes], out of sample.
        labels: The given class of each row, int [rows].
    """
    given = probabilities[np.arange(len(labels)), labels]
    sizes = np.bincount(labels, minlength=probabilities.shape[1])
    thresholds = np.bincount(labels, given, probabilities.shape[1]) / np.maximum(sizes, 1)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    return int(((confident.max(axis=1) >= 0) & (confident.argmax(axis=1) != labels)).sum())


def cutoff(probabilities: Array, labels: Array) -> float:
    """The confidence in the given label at or below which a row counts as wrong: as many rows as errors are estimated."""
    found = Confidence.of(probabilities, labels)
    errors = estimated_errors(probabilities, labels)
    doubtful = np.sort(found.given[found.best != labels])
    return float(doubtful[min(errors, len(doubtful)) - 1]) if errors and len(doubtful) else -1.0
