from __future__ import annotations

import polars as pl
import pytest

from tests.unit.data.steps.rows import pairs, real
from tuneloop.data.frame import spoken
from tuneloop.data.steps import create
from tuneloop.data.steps.chinese import convert

pytest.importorskip("opencc")


@pytest.mark.parametrize(
    ("simplified", "traditional"),
    [
        ("头发和出发", "頭髮和出發"),  # one character, two words
        ("皇后在后面", "皇后在後面"),
        ("干净的饼干", "乾淨的餅乾"),
        ("进行针对性治疗", "進行針對性治療"),  # from the left alone 行针 would be taken for acupuncture (行鍼)
        ("三天后", "三天後"),
        ("ATM 里没有钱", "ATM 裏沒有錢"),
    ],
)
def test_phrases_decide_between_characters(simplified: str, traditional: str) -> None:
    assert convert(pl.Series([simplified]), "traditional")[0] == traditional
    assert convert(pl.Series([traditional]), "simplified")[0] == simplified


@pytest.mark.parametrize("text", ["", "plain English", "皇后", "日本語のテキスト"])
def test_what_needs_no_conversion_stays(text: str) -> None:
    assert convert(pl.Series([text]), "simplified")[0] == text


def test_answers_and_reasoning_are_converted_and_noted() -> None:
    after = create("chinese", {"to": "simplified"}).apply(pairs(["請攜帶身份證", "好"]))
    assert after["messages"][0][1]["content"] == "请携带身份证"
    assert after["history"][0].to_list() == [
        {"step": "chinese", "message": 1, "before": "請攜帶身份證", "after": "请携带身份证"}
    ]
    assert after["history"][1].len() == 0


@pytest.mark.parametrize("to", ["simplified", "traditional"])
def test_it_is_what_opencc_says(to: str) -> None:
    opencc = pytest.importorskip("opencc")
    texts = spoken(real("medical_zh/huatuo_1200.jsonl"), prompt_only=False)
    to_traditional = opencc.OpenCC("s2t")
    oracle = to_traditional if to == "traditional" else opencc.OpenCC("t2s")
    source = texts if to == "traditional" else pl.Series([to_traditional.convert(text) for text in texts])
    assert convert(source, to).to_list() == [oracle.convert(text) for text in source]


def test_converted_text_is_not_converted_again() -> None:
    texts = spoken(real("medical_zh/huatuo_1200.jsonl"), prompt_only=False)
    once = convert(texts, "traditional")
    assert convert(once, "traditional").equals(once)
