"""Shingles: the plain sets, and their hashes for many texts at a time."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.data.minhash.shingles import BOTH, CHARACTERS, WORDS, hashes, jaccard, kinds, mix, shingles

TEXT = st.text(alphabet=st.sampled_from([*"ab c.é银行卡\n\t\U0001f600"]), max_size=30)


def test_shingles_are_character_5_grams() -> None:
    assert shingles("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert shingles("abc") == {"abc"}
    assert shingles("银行卡丢失了") == {"银行卡丢失", "行卡丢失了"}


def test_shingles_are_three_words_without_marks() -> None:
    assert shingles("my card, is lost!", WORDS) == {"my card is", "card is lost"}
    assert shingles("two words", WORDS) == {"two words"}
    assert shingles("?!", WORDS) == {"?!"}


def test_jaccard_by_hand() -> None:
    # {abcde, bcdef} and {bcdef, cdefg}: one of three shingles is shared
    assert jaccard(shingles("abcdef"), shingles("bcdefg")) == pytest.approx(1 / 3)


def test_mix_is_splitmix64() -> None:
    # first outputs for the seed 1234567, as published with the generator's test vectors (rosettacode.org, Splitmix64)
    state = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(state).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("kind", [CHARACTERS, WORDS])
@given(texts=st.lists(TEXT, max_size=6), size=st.integers(1, 6))
def test_hashes_are_equal_where_shingles_are(kind: int, texts: list[str], size: int) -> None:
    found, counts = hashes(pl.Series(texts, dtype=pl.String), kind, size)
    own = [set(part.tolist()) for part in np.split(found, np.cumsum(counts))[:-1]]
    plain = [shingles(text, kind, size) for text in texts]
    for a, b, c, d in ((own[i], own[j], plain[i], plain[j]) for i in range(len(own)) for j in range(i + 1)):
        assert len(a & b) == len(c & d)
        assert len(a | b) == len(c | d)


def test_a_text_does_not_see_its_neighbours() -> None:
    alone, _ = hashes(pl.Series(["lost my card"]), CHARACTERS, 5)
    among, counts = hashes(pl.Series(["x", "lost my card", "y"]), CHARACTERS, 5)
    assert np.split(among, np.cumsum(counts))[1].tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("short text", CHARACTERS),
        ("four " * 299, CHARACTERS),  # 1,495 characters
        ("four " * 300, BOTH),
        ("four " * 599, BOTH),
        ("four " * 600, WORDS),
        ("银行卡丢失了，" * 600, CHARACTERS),
    ],
)
def test_auto_compares_long_texts_with_spaces_by_words(text: str, kind: int) -> None:
    assert kinds(pl.Series([text]), "auto").to_list() == [kind]


def test_a_unit_that_is_asked_for_is_used() -> None:
    assert kinds(pl.Series(["a", "four " * 900]), "characters").to_list() == [CHARACTERS] * 2
    assert kinds(pl.Series(["a", "four " * 900]), "words").to_list() == [WORDS] * 2
