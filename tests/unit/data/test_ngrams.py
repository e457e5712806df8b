from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tuneloop.data.ngrams import buckets, chunks, folded, hashes

TEXTS = pl.Series(["abcab", "", "ab", "x", "银行卡银行"])


def grams(text: str, orders: tuple[int, ...]) -> list[str]:
    return [text[i : i + n] for n in orders for i in range(len(text) - n + 1)]


def test_every_ngram_is_counted_once_and_stays_in_its_text() -> None:
    index, counts = buckets(TEXTS, (1, 2), 16)
    assert counts.tolist() == [len(grams(text, (1, 2))) for text in TEXTS]
    assert len(index) == counts.sum()


def test_equal_ngrams_share_a_bucket_wherever_they_stand() -> None:
    index, _ = buckets(TEXTS, (1, 2), 24)
    where: dict[str, set[int]] = {}
    for gram, bucket in zip([g for text in TEXTS for g in grams(text, (1, 2))], index.tolist(), strict=True):
        where.setdefault(gram, set()).add(bucket)
    assert all(len(found) == 1 for found in where.values())
    assert len({found.pop() for found in where.values()}) == len(where)


def test_the_length_is_part_of_the_hash() -> None:
    zeros = np.zeros(3, dtype=np.uint32)
    assert len({int(hashes(zeros, n)[0]) for n in (1, 2, 3)}) == 3


def test_a_text_shorter_than_the_ngram_has_none() -> None:
    assert buckets(pl.Series(["a", "b"]), (3,), 8)[1].tolist() == [0, 0]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_chunks_are_the_texts_in_order(size: int) -> None:
    parts = list(chunks(TEXTS, size))
    assert pl.concat(parts).equals(TEXTS)


def test_no_texts_no_chunks() -> None:
    assert list(chunks(TEXTS.clear())) == []


def test_folding() -> None:
    assert folded(pl.Series(["  ＡＢＣ\n\tDef "]))[0] == "abc def"
