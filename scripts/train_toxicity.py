"""Train a toxicity model and write it to src/tuneloop/data/weights.

    python scripts/train_toxicity.py --data ../shared/data/safety --language zh --out src/tuneloop/data/weights/toxicity_zh.npz
    python scripts/train_toxicity.py --data ../shared/data/safety --language en --out src/tuneloop/data/weights/toxicity_en.npz

zh: COLD (Deng et al., "COLD: A Benchmark for Chinese Offensive Language Detection", EMNLP 2022; thu-coai/COLDataset,
Apache-2.0) holds posts about race, region and gender with the class offensive or not.

en: Davidson et al., "Automated Hate Speech Detection and the Problem of Offensive Language", ICWSM 2017
(t-davidson/hate-speech-and-offensive-language, MIT) holds posts with the classes hate speech, offensive language, neither.
Of every four different posts two are for training, one for choosing and one for measuring.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

from tuneloop.data.linear import LinearModel
from tuneloop.data.ngrams import buckets, folded
from tuneloop.data.sentence import english_words
from tuneloop.errors import need

ORDERS = {"zh": (1, 2), "en": (3, 4, 5)}
"""Lengths of n-grams. zh: longer ones and more buckets gained under half a point. en: against (2, 3, 4) and (1, ..., 5) the
same recall on the posts for choosing, with a tenth of the false alarms on the training questions of Banking77."""
BITS = 16
INVERSE_REGULARISATION = 3.0
"""Chosen on the posts for choosing among 0.3 (zh), 1, 3 and 10."""
NEITHER = 2
"""The class of harmless posts in Davidson's data."""


def read_english(file: Path) -> tuple[pl.Series, pl.Series]:
    """Different posts in the order of the file, and 1 where they are hate speech or offensive."""
    rows = pl.read_csv(file, columns=["class", "tweet"]).unique("tweet", keep="first", maintain_order=True)
    texts = pl.Series([english_words(text) for text in rows["tweet"]])
    return texts, (rows["class"] != NEITHER).cast(pl.Int64)


def read(file: Path) -> tuple[pl.Series, pl.Series]:
    """Texts, and 1 where they are offensive."""
    rows = pl.read_csv(file, columns=["TEXT", "label"])
    return rows["TEXT"], rows["label"]


def train(texts: pl.Series, offensive: pl.Series, orders: tuple[int, ...]) -> LinearModel:
    """Logistic regression on n-gram counts, each text divided by the root of its number of n-grams."""
    sparse, linear_model = need("scipy.sparse", "quality"), need("sklearn.linear_model", "quality")
    index, counts = buckets(folded(texts), orders, BITS)
    values = np.repeat(1.0 / np.sqrt(np.maximum(counts, 1)), counts)
    ends = np.concatenate([[0], np.cumsum(counts)])
    features = sparse.csr_matrix((values, index, ends), shape=(len(texts), 1 << BITS))
    features.sum_duplicates()
    fitted = linear_model.LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000).fit(features, offensive)
    return LinearModel(fitted.coef_[0].astype(np.float16).astype(np.float32), float(fitted.intercept_[0]), orders)


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
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of both data sets")
    parser.add_argument("--language", choices=sorted(ORDERS), default="zh")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.language == "zh":
        learnt = read(arguments.data / "cold_zh_train_10000.csv")
        texts, labels = read(arguments.data / "cold_zh_dev.csv")
        fresh = ~texts.is_in(learnt[0].to_list())  # some posts stand in both splits
        kept = texts.filter(fresh), labels.filter(fresh)
    else:
        texts, labels = read_english(arguments.data / "davidson_en_10000.csv")
        place = pl.Series(np.arange(len(texts)) % 4)
        learnt = texts.filter(place < 2), labels.filter(place < 2)
        kept = texts.filter(place == 3), labels.filter(place == 3)
    model = train(*learnt, ORDERS[arguments.language])
    model.save(arguments.out)
    for threshold in (0.5, 0.7, 0.9):
        print(json.dumps(measure(model, *kept, threshold)))


if __name__ == "__main__":
    main()
