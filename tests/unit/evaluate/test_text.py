from __future__ import annotations

import random
import re

import pytest

from tuneloop.evaluate.text import lcs_length, rouge_l, tokens


def test_chinese_is_split_into_characters_and_latin_into_words() -> None:
    assert tokens("Hello, 你好 GPT4！ été") == ["hello", "你", "好", "gpt4", "été"]


def test_rouge_l_of_chinese_by_hand() -> None:
    """感冒多喝水 and 感冒要喝水: 4 of 5 characters in common, in order."""
    assert rouge_l("感冒多喝水", "感冒要喝水。") == pytest.approx(4 / 5)


def test_bit_parallel_lcs_equals_the_plain_table() -> None:
    draw = random.Random(0)
    for _ in range(200):
        a, b = ([draw.choice("abcd") for _ in range(draw.randint(0, 90))] for _ in range(2))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        assert lcs_length(a, b) == table[-1][-1]


def test_rouge_l_equals_rouge_score_on_english() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    draw = random.Random(1)
    words = re.findall(r"\S+", "the card was lost or stolen in Paris, and I need a new one today")
    for _ in range(100):
        a, b = (" ".join(draw.choices(words, k=draw.randint(1, 20))) for _ in range(2))
        assert rouge_l(a, b) == pytest.approx(scorer.score(a, b)["rougeL"].fmeasure)


def test_nothing_in_common_or_nothing_said_is_zero() -> None:
    assert rouge_l("a b", "c") == rouge_l("a", "") == rouge_l("", "a") == rouge_l("!", "?") == 0.0
