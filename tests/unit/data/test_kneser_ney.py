from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from tuneloop.data.kneser_ney import KneserNey, Table

TEXTS = ["abab", "abc", "b", "bca bab", "aab", "银行卡银行"]


class Plain:
    """Interpolated Kneser-Ney in dictionaries, as the formula is printed (Chen & Goodman 1999, section 2.7)."""

    def __init__(self, texts: list[str], order: int) -> None:
        self.order = order
        lines = ["\x02" * (order - 1) + text + "\x03" for text in texts]
        seen = Counter(line[i + 1 - order : i + 1] for line in lines for i in range(order - 1, len(line)))
        self.counts = {order: seen}
        for k in range(order - 1, 0, -1):
            longer = {line[i - k : i + 1] for line in lines for i in range(order - 1, len(line))}
            self.counts[k] = Counter(gram[1:] for gram in longer)
        self.vocabulary = len(self.counts[1])

    def probability(self, history: str, character: str) -> float:
        history = history[len(history) - self.order + 1 :] if self.order > 1 else ""
        k = len(history) + 1
        lower = self.probability_of_order(k - 1, history[1:], character)
        return self.smooth(k, history, character, lower)

    def probability_of_order(self, k: int, history: str, character: str) -> float:
        if k == 0:
            return 1 / (self.vocabulary + 1)
        return self.smooth(k, history, character, self.probability_of_order(k - 1, history[1:], character))

    def smooth(self, k: int, history: str, character: str, lower: float) -> float:
        counts = self.counts[k]
        followers = {gram: n for gram, n in counts.items() if gram[:-1] == history}
        if not followers:
            return lower
        once, twice = sum(n == 1 for n in counts.values()), sum(n == 2 for n in counts.values())
        discount = once / (once + 2 * twice) if once and twice else 0.5
        total = sum(followers.values())
        own = max(counts[history + character] - discount, 0) / total
        return own + discount * len(followers) / total * lower

    def bits(self, text: str) -> float:
        line = "\x02" * (self.order - 1) + text + "\x03"
        logs = [math.log2(self.probability(line[:i], line[i])) for i in range(self.order - 1, len(line))]
        return -sum(logs) / len(logs)


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("text", ["abab", "", "zzz", "abz bca", "银行 b", "a", "b" * 30])
def test_it_is_the_printed_formula(order: int, text: str) -> None:
    fast = KneserNey.fit(pl.Series(TEXTS), order)
    assert fast.bits(pl.Series([text]))[0] == pytest.approx(Plain(TEXTS, order).bits(text), rel=1e-5)


@pytest.mark.parametrize("history", ["", "a", "ab", "zz", "bca b"])
def test_the_probabilities_after_any_history_add_up_to_one(history: str) -> None:
    plain = Plain(TEXTS, 3)
    known = set(plain.counts[1])
    padded = "\x02\x02" + history
    assert sum(plain.probability(padded, c) for c in known) + plain.probability(padded, "?") == pytest.approx(1.0)


def test_texts_are_scored_apart_from_each_other() -> None:
    model = KneserNey.fit(pl.Series(TEXTS), 4)
    together = model.bits(pl.Series(TEXTS))
    assert together.tolist() == [model.bits(pl.Series([text]))[0] for text in TEXTS]


def test_no_texts_no_bits() -> None:
    assert len(KneserNey.fit(pl.Series(TEXTS)).bits(pl.Series([], dtype=pl.String))) == 0


def test_a_table_finds_what_is_in_it_and_nothing_else() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    keys, strangers = np.unique(numbers[:2000]), numbers[2000:]
    table = Table(keys)
    assert table.find(keys).tolist() == list(range(len(keys)))
    assert (table.find(strangers) == -1).all()
    assert (Table(keys[:0]).find(strangers) == -1).all()
