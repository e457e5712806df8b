"""Rows that mean the same: exact greedy decisions over vectors, with and without a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tuneloop.data import embedding
from tuneloop.data.frame import make_frame
from tuneloop.data.steps import create, semantic
from tuneloop.data.steps.judging import Judge, facts
from tuneloop.data.steps.semantic import SemanticDuplicates
from tuneloop.errors import ConfigError, ModelError

QUESTIONS = [
    "How do I block a lost card?",
    "Which exchange rate applies to my transfer?",
    "I want to open a savings account",
    "Why was my payment declined yesterday?",
    "我想查询贷款利率",
    "银行卡丢了怎么办",
]


def rows(texts: list[str], labels: list[str] | None = None) -> pl.DataFrame:
    messages: list[list[dict[str, Any]]] = [[{"role": "user", "content": t}] for t in texts]
    return make_frame(
        {"id": [f"r{k}" for k in range(len(texts))], "messages": messages, "label": labels or [None] * len(texts)}
    )


def test_the_same_words_in_another_order_are_a_duplicate_without_a_model() -> None:
    after = SemanticDuplicates(threshold=0.9).apply(rows([*QUESTIONS, "A lost card how do I block?"]))
    assert after["dropped_reason"].to_list()[:-1] == [None] * len(QUESTIONS)
    assert after["partner"][-1] == "r0"
    assert after["dropped_reason"][-1] == "semantic-duplicate: 1.00 similar to r0"


def test_equal_texts_reach_a_threshold_of_one() -> None:
    after = SemanticDuplicates(threshold=1.0).apply(rows([*QUESTIONS, QUESTIONS[2]]))
    assert after["dropped_reason"].to_list() == [None] * len(QUESTIONS) + ["semantic-duplicate: 1.00 similar to r2"]


def test_similar_rows_of_different_classes_stay_in_one_group() -> None:
    texts = [*QUESTIONS, QUESTIONS[0]]
    after = SemanticDuplicates().apply(rows(texts, ["a"] * len(QUESTIONS) + ["b"]))
    assert after["dropped_reason"].null_count() == len(texts)
    assert after["group"].to_list() == ["r0", *[None] * (len(QUESTIONS) - 1), "r0"]


def test_a_text_without_meaning_is_not_compared_and_said_so() -> None:
    step = SemanticDuplicates()
    after = step.apply(rows([*QUESTIONS, "", ""]))
    assert after["dropped_reason"].null_count() == after.height
    assert list(step.notes) == ["2 rows say nothing that their meaning could be judged by and were not compared"]


@pytest.mark.parametrize("tile", [(512, 8_192), (7, 5), (1, 1)])
def test_decisions_are_those_of_the_plain_rule(tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_ROWS", tile[0])
    monkeypatch.setattr(semantic, "_COLUMNS", tile[1])
    vectors = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors.astype(float) @ vectors.T.astype(float)
    partner = [-1] * 60
    for j in range(60):
        partner[j] = next((i for i in range(j) if partner[i] < 0 and cosine[i, j] >= 0.9), -1)

    found = semantic._KeepFirst(vectors, Judge(facts(rows(["x"] * 60))), 0.9)

    assert 10 < sum(p >= 0 for p in partner) < 50
    assert found.partner.tolist() == partner
    gone = np.flatnonzero(found.partner >= 0)
    assert found.similarity[gone] == pytest.approx(cosine[gone, found.partner[gone]], abs=1e-5)


def test_a_row_that_the_sample_does_not_explain_has_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "SAMPLE", 2)  # the first and the last row
    texts = pl.DataFrame(
        {"at": [0, 1, 2], "text": ["lost card", "银行卡丢了", "lost cards"]}, schema_overrides={"at": pl.Int64}
    )
    vectors = embedding.analyse(texts.lazy(), np.arange(3))
    assert vectors.any(axis=1).tolist() == [True, False, True]


def test_a_local_model_judges_the_same_text_as_the_same(tiny: Callable[..., Path]) -> None:
    step = SemanticDuplicates(model=str(tiny()), threshold=1.0)
    after = step.apply(rows(["lost card", "another thing", "Lost card!"]))
    assert after["partner"].to_list() == [None, None, "r0"]


def test_a_text_has_one_vector_whatever_stands_beside_it(tiny: Callable[..., Path]) -> None:
    texts = pl.Series(["lost card", "a much longer text that fills the batch with padding"])
    together = np.concatenate(list(embedding.embed(texts, str(tiny()))))
    alone = np.concatenate(list(embedding.embed(texts[:1], str(tiny()))))
    assert np.abs(together[:1].astype(float) - alone).max() < 2e-3  # float16


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model in"):
        create("semantic_duplicates", {"model": str(tmp_path / "none")})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="not a model"):
        SemanticDuplicates(model=str(tmp_path)).digest(rows(["a"]))
