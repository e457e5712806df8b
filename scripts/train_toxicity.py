"""Train the Chinese toxicity model on COLD and write src/tuneloop/data/weights/toxicity_zh.npz.

    python scripts/train_toxicity.py --data ../shared/data/safety --out src/tuneloop/data/weights/toxicity_zh.npz

COLD (Deng et al., "COLD: A Benchmark for Chinese Offensive Language Detection", EMNLP 2022; thu-coai/COLDataset,
Apache-2.0) holds posts about race, region and gender with the class offensive or not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

from tuneloop.data.linear import LinearModel
from tuneloop.data.ngrams import buckets, folded
from tuneloop.errors import need

ORDERS = (1, 2)
BITS = 16
INVERSE_REGULARISATION = 3.0
"""Chosen on the dev split among 0.3, 1, 3 and 10; longer n-grams and more buckets gained under half a point."""


def read(file: Path) -> tuple[pl.Series, pl.Series]:
    """Texts, and 1 where they are offensive."""
    rows = pl.read_csv(file, columns=["TEXT", "label"])
    return rows["TEXT"], rows["label"]


def train(texts: pl.Series, offensive: pl.Series) -> LinearModel:
    """Logistic regression on n-gram counts, each text divided by the root of its number of n-grams."""
    sparse, linear_model = need("scipy.sparse", "quality"), need("sklearn.linear_model", "quality")
    index, counts = buckets(folded(texts), ORDERS, BITS)
    values = np.repeat(1.0 / np.sqrt(np.maximum(counts, 1)), counts)
    ends = np.concatenate([[0], np.cumsum(counts)])
    features = sparse.csr_matrix((values, index, ends), shape=(len(texts), 1 << BITS))
    features.sum_duplicates()
    fitted = linear_model.LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000).fit(features, offensive)
    return LinearModel(fitted.coef_[0].astype(np.float16).astype(np.float32), float(fitted.intercept_[0]), ORDERS)


def measure(model: LinearModel, texts: pl.Series, offensive: pl.Series, threshold: float) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of the class offensive."""
    said, true = model.probabilities(texts) >= threshold, offensive.to_numpy() == 1
    hits = float((said & true).sum())
    precision, recall = hits / max(said.sum(), 1), hits / true.sum()
    return {
        "threshold": threshold,
        "accuracy": round(float((said == true).mean()), 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(2 * precision * recall / max(precision + recall, 1e-9), 4),
        "n": len(texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with cold_zh_train_10000.csv and cold_zh_dev.csv"
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    train_texts, train_labels = read(arguments.data / "cold_zh_train_10000.csv")
    texts, labels = read(arguments.data / "cold_zh_dev.csv")
    fresh = ~texts.is_in(train_texts.to_list())  # some posts stand in both splits
    model = train(train_texts, train_labels)
    model.save(arguments.out)
    for threshold in (0.5, 0.7, 0.9):
        print(json.dumps(measure(model, texts.filter(fresh), labels.filter(fresh), threshold)))


if __name__ == "__main__":
    main()
