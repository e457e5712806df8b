"""Near-duplicate candidates against the plain comparison of all pairs."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tuneloop.data.minhash import (
    PERMUTATIONS,
    SHINGLE,
    _shingle_hashes,
    bands,
    candidates,
    jaccard,
    shingles,
    signatures,
)

WORDS = [
    "card",
    "transfer",
    "account",
    "refund",
    "balance",
    "pending",
    "blocked",
    "payment",
    "abroad",
    "fee",
    "limit",
    "statement",
    "branch",
    "app",
    "login",
]


def corpus(n: int, seed: int = 0) -> list[str]:
    """Random sentences, each third one an edit of an earlier one."""
    rng = random.Random(seed)
    out: list[str] = []
    for k in range(n):
        if k % 3 == 2:
            words = rng.choice(out).split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = [f"{rng.choice(WORDS)}{rng.randrange(50)}" for _ in range(rng.randint(3, 20))]
        out.append(" ".join(words))
    return out


def test_shingles_are_character_5_grams() -> None:
    assert shingles("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert shingles("abc") == {"abc"}
    assert shingles("银行卡丢失了") == {"银行卡丢失", "行卡丢失了"}


def test_jaccard_by_hand() -> None:
    # {abcde, bcdef} and {bcdef, cdefg}: one of three shingles is shared
    assert jaccard(shingles("abcdef"), shingles("bcdefg")) == pytest.approx(1 / 3)


def test_hashed_shingles_match_the_sets() -> None:
    texts = ["abcdefg", "abc", "", "银行卡丢失了银行卡丢失了", "a" * 40]
    hashes, offsets = _shingle_hashes(texts)
    for k, text in enumerate(texts):
        own = hashes[int(offsets[k]) : int(offsets[k + 1])]
        assert len(own) == max(len(text) - SHINGLE + 1, 1)
        assert len(set(own.tolist())) == len(shingles(text))


def test_equal_shingles_hash_equally_wherever_they_stand() -> None:
    hashes, offsets = _shingle_hashes(["xxabcde", "abcde"])
    assert hashes[int(offsets[1]) - 1] == hashes[int(offsets[1])]


def test_signature_agreement_estimates_jaccard() -> None:
    rng = random.Random(1)
    base = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(600))
    other = base[:400] + "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(200))
    sketch = signatures([base, other])
    exact = jaccard(shingles(base), shingles(other))
    # standard error of the mean of 128 coin flips: at most 0.045
    assert abs(float(np.mean(sketch[0] == sketch[1])) - exact) < 4 * 0.045


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_a_pair_at_the_threshold_and_are_as_selective_as_that_allows(threshold: float) -> None:
    rows = bands(threshold)

    def missed(r: int) -> float:
        return float((1 - threshold**r) ** (PERMUTATIONS // r))

    assert missed(rows) <= 0.002
    assert rows == PERMUTATIONS // 4 or missed(rows + 1) > 0.002


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_no_similar_pair_is_missed(threshold: float) -> None:
    texts = corpus(400)
    sets = [shingles(t) for t in texts]
    wanted = {(i, j) for j in range(len(texts)) for i in range(j) if jaccard(sets[i], sets[j]) >= threshold}

    pairs, capped = candidates(texts, threshold)

    assert len(wanted) > 20
    assert wanted <= set(pairs)
    assert pairs == sorted(pairs, key=lambda p: (p[1], p[0]))
    assert capped == 0


def test_a_giant_bucket_is_compared_in_linear_time_and_said_so() -> None:
    pairs, capped = candidates(["the same boilerplate text in every row"] * 1000, 0.8)
    assert capped == 1000
    assert len(pairs) < 1000 * 150
    assert {j for _, j in pairs} == set(range(1, 1000))


def test_too_few_texts_have_no_pairs() -> None:
    assert candidates([], 0.8) == ([], 0)
    assert candidates(["one"], 0.8) == ([], 0)
