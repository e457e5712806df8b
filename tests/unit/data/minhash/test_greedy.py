"""Rows are kept as if each was looked at in order."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tuneloop.data.minhash import Candidates, KeepFirst, greedy


def plain(similar: dict[tuple[int, int], float], rows: int, threshold: float) -> list[int]:
    """The rule in its own words: a row goes for the first kept row that it resembles."""
    partner = [-1] * rows
    for j in range(rows):
        kept = (i for i in range(j) if partner[i] < 0 and similar.get((i, j), 0) >= threshold)
        partner[j] = next(kept, -1)
    return partner


def decide(similar: dict[tuple[int, int], float], rows: int, threshold: float = 0.5) -> tuple[KeepFirst, int]:
    """What was decided, and how many pairs were compared."""
    pairs = sorted(similar, key=lambda p: (p[1], p[0]))
    i, j = (np.array([p[side] for p in pairs], dtype=np.int64) for side in (0, 1))
    compared = 0

    def comparison(a: np.ndarray, b: np.ndarray, kind: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(a)
        return np.array([similar[p] for p in zip(a.tolist(), b.tolist(), strict=True)], dtype=float)

    found = KeepFirst(Candidates(i, j, np.zeros(len(i), np.uint8), 0, False), rows, threshold, comparison)
    return found, compared


@pytest.mark.parametrize("rounds", [0, 1, 3, 40])
@pytest.mark.parametrize("pairs", [10, 60, 400])
def test_decisions_are_those_of_the_plain_rule(rounds: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "_ROUNDS", rounds)
    for seed in range(10):
        rng = random.Random(seed)
        edges = (sorted(rng.sample(range(40), 2)) for _ in range(pairs))
        similar = {(i, j): rng.random() for i, j in edges}
        found, _ = decide(similar, 40)
        assert found.partner.tolist() == plain(similar, 40, 0.5)
        assert all(found.similarity[j] == similar[i, j] for j, i in enumerate(found.partner.tolist()) if i >= 0)


def test_a_chain_keeps_every_other_row() -> None:
    found, _ = decide({(k, k + 1): 1.0 for k in range(2000)}, 2001)
    assert found.dropped.tolist() == [bool(k % 2) for k in range(2001)]


def test_rows_like_the_first_cost_one_comparison_each() -> None:
    found, compared = decide({(i, j): 1.0 for j in range(100) for i in range(j)}, 100)
    assert found.partner.tolist() == [-1] + [0] * 99
    assert compared == 99
