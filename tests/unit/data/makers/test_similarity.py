"""chrF, against the implementation of the field."""

from __future__ import annotations

import pytest

from tuneloop.data.makers.similarity import chrf


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("the cat sat on the mat", "the cat is on the mat"),
        ("my card is gone", "a completely different sentence"),
        ("我的银行卡丢了", "我的银行卡丢失了，怎么办"),
        ("ab", "abc"),
        ("same", "same"),
    ],
)
def test_it_is_sacrebleus_chrf2(said: str, meant: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    assert chrf(said, meant) == pytest.approx(sacrebleu.sentence_chrf(said, [meant]).score / 100, abs=1e-9)


def test_nothing_is_similar_to_nothing() -> None:
    assert chrf("", "abc") == 0.0
    assert chrf("xyz", "abc") == 0.0
