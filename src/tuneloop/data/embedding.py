"""Texts -> unit vectors whose inner product is a similarity of meaning.

Two roads: a sentence-embedding model in a local folder, or, without any model, latent semantic analysis: TF-IDF of
character n-grams, reduced by a singular value decomposition (Deerwester et al., 1990).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tuneloop.data.steps.digests import pick
from tuneloop.errors import ModelError, need
from tuneloop.progress import Progress

Array = NDArray[Any]
DIMENSIONS = 128
FEATURES = 2**18
SAMPLE = 20_000
"""Rows that the analysis learns from, evenly spaced over the data."""
EXPLAINED = 0.1
"""A text of which less than this share of the squared length lies in the learnt space has no direction to speak of."""
TOKENS = 512
_ROWS_A_PART = 20_000
_BATCH = 32


def analyse(texts: pl.LazyFrame, order: Array) -> Array:
    """Latent semantic vectors of all texts, float32 [N, d]; zero for a text that the learnt space does not explain.

    Args:
        texts: Column ``text`` and what stands beside it.
        order: int64 [N]: the ``at`` of each vector.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    need("sklearn", "quality")
    texts = texts.select("text")
    chosen = np.unique(np.linspace(0, len(order) - 1, min(SAMPLE, len(order))).astype(np.int64))
    sample = _counts(pick(texts, order[chosen])["text"].to_list())
    documents = np.asarray((sample > 0).sum(axis=0)).ravel()
    weights = np.log((1 + len(chosen)) / (1 + documents)) + 1
    rank = min(DIMENSIONS, len(chosen))
    svd = need("sklearn.utils.extmath", "quality").randomized_svd
    _, _, basis = svd(_weighted(sample, weights), n_components=rank, random_state=0)
    out = np.zeros((len(order), rank), dtype=np.float32)
    with Progress("reading meaning", len(order), "rows") as progress:
        for start in range(0, len(order), _ROWS_A_PART):
            part = order[start : start + _ROWS_A_PART]
            found = pick(texts, part)["text"].to_list()
            out[start : start + len(part)] = _units(_weighted(_counts(found), weights) @ basis.T)
            progress.update(len(part))
    return out


def _counts(texts: list[str]) -> Any:
    """How often each hashed character n-gram (2 to 4, inside words) occurs: a sparse matrix [N, FEATURES]."""
    text = need("sklearn.feature_extraction.text", "quality")
    return text.HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), n_features=FEATURES, alternate_sign=False, norm=None
    ).transform(texts)


def _weighted(counts: Any, weights: Array) -> Any:
    """Rows of unit length: (1 + log count) * inverse document frequency."""
    counts = counts.tocsr(copy=True)
    counts.data = (1 + np.log(counts.data)) * weights[counts.indices]
    return need("sklearn.preprocessing", "quality").normalize(counts)


def _units(vectors: Array) -> Array:
    """Rows of length one; rows much shorter than that before become zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = length**2 >= EXPLAINED
    return np.where(known, vectors / np.where(known, length, 1), 0).astype(np.float32)


def embed(texts: pl.Series, folder: str) -> Iterator[Array]:
    """Mean-pooled last hidden states of a local model, unit length, float16 [batch, d], in the order of the texts.

    Texts longer than 512 tokens (or what the model takes) are cut there.

    Raises:
        ModelError: The folder holds no model that transformers can load.
        MissingExtraError: torch or transformers is not installed.
    """
    torch = need("torch", "train")
    tokenizer, model = _model(folder)
    longest = min(tokenizer.model_max_length, TOKENS, getattr(model.config, "max_position_embeddings", TOKENS))
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            texts[start : start + _BATCH].to_list(),
            padding=True, truncation=True, max_length=longest, return_tensors="pt", return_token_type_ids=False,
        )  # fmt: skip
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        yield torch.nn.functional.normalize(mean, dim=1).half().numpy()


@lru_cache(maxsize=1)
def _model(folder: str) -> tuple[Any, Any]:
    transformers = need("transformers", "train")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"not a model that transformers can load: {str(error).splitlines()[0]}",
            where=folder,
            hint="a folder with config.json, tokenizer.json and model.safetensors; or  model: hashing",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model.eval()
