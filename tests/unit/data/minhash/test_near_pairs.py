"""``near_pairs`` against the plain comparison of all pairs, against datasketch and on real articles."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from tuneloop.data.frame import comparable
from tuneloop.data.minhash import Shingling, digest, jaccard, near_pairs, shingles
from tuneloop.data.minhash.shingles import WORDS

ARTICLES = Path(__file__).parents[5] / "shared" / "data" / "neardup"
VOCABULARY = [
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
]
CHINESE = "银行卡丢失了怎么办请问账户余额转账退款手续费贷款利率还款日期密码登录"


def corpus(n: int, seed: int = 0, alphabet: list[str] = VOCABULARY, joint: str = " ") -> list[str]:
    """Random sentences, each third one an edit of an earlier one."""
    rng = random.Random(seed)
    out: list[list[str]] = []
    for k in range(n):
        if k % 3 == 2:
            words = list(rng.choice(out))
            words[rng.randrange(len(words))] = rng.choice(alphabet)
        else:
            length = rng.randint(8, 30) if joint else rng.randint(40, 120)
            words = [rng.choice(alphabet) + str(rng.randrange(50)) * bool(joint) for _ in range(length)]
        out.append(words)
    return [joint.join(words) for words in out]


def plain(texts: list[str], threshold: float, kind: int = 0, size: int = 0) -> dict[tuple[int, int], float]:
    sets = [shingles(t, kind, size) for t in texts]
    every = {(i, j): jaccard(sets[i], sets[j]) for j in range(len(texts)) for i in range(j)}
    return {pair: similarity for pair, similarity in every.items() if similarity >= threshold}


def found(
    texts: pl.Series | pl.DataFrame, threshold: float, shingling: Shingling | None = None
) -> dict[tuple[int, int], float]:
    return {(i, j): s for i, j, s in near_pairs(texts, threshold, shingling=shingling).iter_rows()}


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize(("alphabet", "joint"), [(VOCABULARY, " "), (list(CHINESE), "")], ids=["english", "chinese"])
def test_no_pair_is_wrong_and_hardly_one_is_missed(threshold: float, alphabet: list[str], joint: str) -> None:
    texts = corpus(400, 0, alphabet, joint)
    wanted = plain(texts, threshold)
    own = found(pl.Series(texts), threshold)
    assert own.items() <= wanted.items()
    # a pair right at the threshold is missed with a probability of 0.0025
    assert len(wanted) > 20
    assert len(own) >= len(wanted) - 1


def test_words_are_compared_when_asked_for() -> None:
    texts = corpus(200)
    wanted = plain(texts, 0.5, WORDS, 2)
    assert len(wanted) > 20
    assert found(pl.Series(texts), 0.5, Shingling("words", 2)) == wanted


def test_similar_texts_on_both_sides_of_the_border_find_each_other() -> None:
    words = [f"{word}{k}" for k, word in enumerate(VOCABULARY * 16)]
    texts = [" ".join(words)[:1490], " ".join(words)[:1510], " ".join(words)[:1700]]
    assert set(found(pl.Series(texts), 0.8)) == {(0, 1), (0, 2), (1, 2)}


def test_digests_serve_as_well_as_texts() -> None:
    texts = pl.Series(corpus(100))
    assert found(digest(texts, Shingling()), 0.7) == found(texts, 0.7)


def test_pairs_stand_in_order() -> None:
    pairs = near_pairs(pl.Series(corpus(300)), 0.5)
    assert pairs.equals(pairs.sort("j", "i"))
    assert dict(pairs.schema) == {"i": pl.Int64, "j": pl.Int64, "similarity": pl.Float64}


def test_what_datasketch_finds_is_found() -> None:
    datasketch = pytest.importorskip("datasketch", reason="the oracle is not installed: pip install datasketch")
    texts = corpus(600, seed=3)
    lsh = datasketch.MinHashLSH(threshold=0.7, num_perm=128)
    sets = [shingles(t) for t in texts]
    theirs: set[tuple[int, int]] = set()
    for j, own in enumerate(sets):
        sketch = datasketch.MinHash(128)
        sketch.update_batch([s.encode() for s in own])
        theirs |= {(int(i), j) for i in lsh.query(sketch)}
        lsh.insert(str(j), sketch)
    verified = {(i, j) for i, j in theirs if jaccard(sets[i], sets[j]) >= 0.7}
    assert len(verified) > 50
    assert verified <= set(found(pl.Series(texts), 0.7))


def test_the_true_pairs_of_real_articles_are_found_and_no_others() -> None:
    if not ARTICLES.exists():
        pytest.skip("needs ../shared/data/neardup (articles_1000 of chrisjmccormick/MinHash)")
    lines = [line.split(" ", 1) for line in (ARTICLES / "articles_1000.train").read_text("utf-8").splitlines()]
    names, texts = zip(*lines, strict=True)
    truth = {frozenset(line.split()) for line in (ARTICLES / "articles_1000.truth").read_text("utf-8").splitlines()}
    pairs = found(comparable(pl.Series(texts)), 0.8)
    assert {frozenset((names[i], names[j])) for i, j in pairs} == truth
