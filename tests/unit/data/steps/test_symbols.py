from __future__ import annotations

from typing import Any

import pytest

from tests.unit.data.steps.rows import GOOD_SETS, classes, dropped, real, reasons


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("abcdefghij" + "!?" * 10, {}, "symbols: 67 % of the characters are symbols (limit 40)"),
        ("a" + "1" * 19, {}, "symbols: 95 % of the characters are digits (limit 70)"),
        ("BUY NOW AND SAVE A LOT OF MONEY", {"max_uppercase": 0.9}, "symbols: 100 % of the letters are capitals (limit 90)"),
        ("1 2 3 4 5 6 7 8 9 wonderful wonderful", {}, "symbols: 82 % of the words have no letter (limit 80)"),
        ("one two #three " * 20, {}, "symbols: 33 hashes and ellipses in 100 words (limit 10)"),
        ("- one more\n" * 6, {"max_bullet_lines": 0.9}, "symbols: 100 % of the lines are bullets (limit 90)"),
        ("read more about it...\n" * 6, {}, "symbols: 100 % of the lines end with an ellipsis (limit 30)"),
        ("Lorem ipsum dolor sit amet", {}, "placeholder: lorem ipsum"),
    ],
)  # fmt: skip
def test_each_rule_gives_its_reason(text: str, options: dict[str, Any], reason: str) -> None:
    assert reasons("symbols", classes([text], ["x"]), **options) == [reason]


@pytest.mark.parametrize(
    "text",
    [
        "2+2=4",
        "请问，我的银行卡丢了，怎么办？谢谢！",
        "def f(x):\n    return {k: v for k, v in x.items()}",
        "WHERE IS MY CARD??? I NEED IT NOW",
        "👩‍💻 I work from home and my card was lost in the post",
        "Карта не работает, что делать дальше?",
    ],
)
def test_what_people_write_is_kept(text: str) -> None:
    assert reasons("symbols", classes([text], ["x"])) == [None]


@pytest.mark.parametrize("path", GOOD_SETS.values(), ids=GOOD_SETS)
def test_good_sets_are_kept_whole(path: str) -> None:
    assert dropped("symbols", real(path)) == 0.0
