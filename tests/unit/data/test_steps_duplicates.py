"""Duplicates are judged from digests: however rows are cut into parts, and however little fits in memory."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from tuneloop.data.frame import VERDICTS, make_frame
from tuneloop.data.steps import WholeBase, create, digests, near
from tuneloop.data.steps.exact import ExactDuplicates, text_hash
from tuneloop.data.steps.near import NearDuplicates
from tuneloop.errors import ConfigError

WORDS = ["card", "transfer", "account", "refund", "balance", "pending", "blocked", "payment", "abroad", "fee", "limit"]


def frame(n: int = 300) -> pl.DataFrame:
    """Rows of which many resemble or equal others, with classes and without, prescribed and free."""
    rng = random.Random(0)
    texts: list[str] = []
    for k in range(n):
        if k % 2:
            texts.append(rng.choice(texts) + rng.choice(["", "!", " now", " please help"]))
        else:
            texts.append(" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + f" {k}")
    conversations: list[list[dict[str, Any]]] = [[{"role": "user", "content": t}] for t in texts]
    for k in range(0, n, 5):
        conversations[k].append({"role": "assistant", "content": "yes"})
    labels = [None if len(c) > 1 else rng.choice("xy") for c in conversations]
    pinned = [rng.choice(["test", "validation", *[None] * 8]) for _ in range(n)]
    return make_frame({"id": [f"r{k}" for k in range(n)], "messages": conversations, "label": labels, "pinned": pinned})


def verdicts(step: WholeBase, rows: pl.DataFrame, cuts: list[int]) -> pl.DataFrame:
    """The decision when each part was digested by itself."""
    edges = [0, *cuts, rows.height]
    parts = [step.digest(rows[a:b]) for a, b in pairwise(edges)]
    every = pl.concat(parts).with_row_index("at").with_columns(pl.col("at").cast(pl.Int64))
    return step.decide(every.lazy())


@pytest.mark.parametrize("step", [ExactDuplicates(), NearDuplicates()], ids=lambda s: s.name)
def test_parts_do_not_matter(step: WholeBase) -> None:
    rows = frame()
    whole = verdicts(step, rows, [])
    assert whole.height > 20
    assert dict(whole.schema) == dict(VERDICTS)
    assert verdicts(step, rows, [0, 1, 50, 299]).equals(whole)


@pytest.mark.parametrize("step", [ExactDuplicates(), NearDuplicates()], ids=lambda s: s.name)
def test_a_digest_has_a_row_for_each_row(step: WholeBase) -> None:
    assert step.digest(frame(7)).height == 7
    assert step.digest(frame(7)[:0]).schema == step.digest(frame(7)).schema


def test_lots_that_fit_in_memory_are_judged_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = frame()
    whole = verdicts(NearDuplicates(), rows, [])
    monkeypatch.setattr(near, "_TEXT_BYTES", 500)
    assert verdicts(NearDuplicates(), rows, []).equals(whole)


def test_texts_that_share_half_of_their_hash_are_not_equal() -> None:
    step = ExactDuplicates()
    twins = step.digest(frame(2)).with_columns(at=pl.Series([0, 1]), hash_high=pl.lit(7, dtype=pl.UInt64))
    assert step.decide(twins.lazy()).height == 0


def test_a_text_with_a_class_is_not_equal_to_one_without() -> None:
    high, low = text_hash(pl.Series(["same", "same", "same"]), pl.Series([True, False, False]))
    assert high[0] != high[1]
    assert (high[1], low[1]) == (high[2], low[2])


def test_words_ignore_what_stands_between_them() -> None:
    texts = ["the card, which I lost on Monday, was blocked", "the card which I lost on Monday was blocked"]
    rows = make_frame({"id": ["a", "b"], "messages": [[{"role": "user", "content": t}] for t in texts]})
    assert NearDuplicates(threshold=1.0).apply(rows)["dropped_reason"].to_list() == [None, None]
    by_words = NearDuplicates(threshold=1.0, shingle="words").apply(rows)
    assert by_words["dropped_reason"].to_list() == [None, "near-duplicate: 1.00 similar to a"]


def test_a_size_without_a_unit_is_refused() -> None:
    with pytest.raises(ConfigError, match="shingle_size needs a unit"):
        create("near_duplicates", {"shingle_size": 4})


@pytest.mark.parametrize("slice_rows", [1, 3, 100])
def test_digests_are_picked_in_the_order_asked_for(slice_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SLICE", slice_rows)
    whole = pl.DataFrame({"letter": list("abcdefgh")}).lazy()
    assert "".join(digests.pick(whole, np.array([6, 0, 7, 2, 1]))["letter"]) == "gahcb"
    assert digests.pick(whole, np.zeros(0, dtype=np.int64)).schema == {"letter": pl.String}
