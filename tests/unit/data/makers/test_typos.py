"""Typing errors, in English and Chinese."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pypinyin
import pytest

from tests.unit.data.makers.conftest import Make, rows, said, with_entities
from tuneloop.data import DataConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.intake import read_whole
from tuneloop.data.makers import typos
from tuneloop.data.makers.protect import fixed_pieces
from tuneloop.data.makers.similarity import chrf

SHARED = Path(__file__).parents[5] / "shared" / "data"


def edit_distance(a: str, b: str) -> int:
    """Damerau-Levenshtein (optimal string alignment)."""
    d = {(i, j): i + j for i in range(len(a) + 1) for j in range(len(b) + 1) if not i or not j}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 2 : i] == b[j - 1] + b[j - 2]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return d[len(a), len(b)]


def test_keys_have_the_neighbours_that_they_have_on_a_keyboard() -> None:
    near = typos.keyboard_neighbours()
    assert near["s"] == "adewxz"
    assert near["q"] == "aw"
    assert near["p"] == "lo"
    assert all(a in near[b] for a in near for b in near[a])


def test_common_characters_are_level_1_of_gb_2312() -> None:
    # GB 2312-1980: 3,755 characters, from 啊 to 座
    characters = list(typos.common_characters())
    assert len(characters) == 3755
    assert (characters[0], characters[-1]) == ("啊", "座")


def test_homophones_share_the_syllable() -> None:
    assert {"事", "是", "市"} <= set(typos.homophones()["shi"])


def test_every_english_mistake_is_one_edit(make: Make) -> None:
    text = "please telephone somebody tomorrow morning"
    many = rows([text] * 200)
    new = said(make("typos", {"rate": 1.0, "character_rate": 0.001}, many))
    assert {edit_distance(text, other) for other in new} == {1}
    assert {len(other) - len(text) for other in new} == {-1, 0, 1}


def test_first_letters_and_short_words_stay(make: Make) -> None:
    new = said(make("typos", {"rate": 1.0, "character_rate": 0.5}, rows(["the cat is on a mat with pride"] * 50)))
    assert all(re.fullmatch(r"the cat is on a mat w\w* p\w*", text) for text in new)


def test_a_chinese_mistake_keeps_syllable_and_length(make: Make) -> None:
    text = "我的银行卡丢失了怎么办"
    new = said(make("typos", {"rate": 1.0, "character_rate": 0.001}, rows([text] * 100)))
    for other in new:
        (changed,) = [(a, b) for a, b in zip(text, other, strict=True) if a != b]
        assert set(pypinyin.pinyin(changed[1], style=pypinyin.Style.NORMAL, heteronym=True)[0]) & set(
            pypinyin.pinyin(changed[0], style=pypinyin.Style.NORMAL, heteronym=True)[0]
        )


def test_a_polyphone_is_read_by_its_context(make: Make) -> None:
    # 行 is hang in 银行 and xing in 行人
    heard = {
        c for text in said(make("typos", {"rate": 1.0, "character_rate": 0.5}, rows(["银行"] * 200))) for c in text[1]
    }
    assert heard - {"行"} <= set(typos.homophones()["hang"])


@pytest.mark.parametrize("seed", range(5))
def test_protected_pieces_and_entities_survive(make: Make, seed: int) -> None:
    text = "Ask [EMAIL] about `some code` at https://example.org/path in Hamburg, room B12, 请在深圳等我三天"
    new = make(
        "typos",
        {"rate": 1.0, "character_rate": 0.5},
        rows([text], fields=[with_entities({"city": ["Hamburg", "深圳"]})]),
        seed=seed,
    )
    for piece in ("[EMAIL]", "`some code`", "https://example.org/path", "Hamburg", "B12", "深圳", "三"):
        assert piece in said(new)[0]


def test_only_user_turns_change(make: Make) -> None:
    turns = [
        {"role": "system", "content": "always answer politely"},
        {"role": "user", "content": "where does this train leave"},
        {"role": "assistant", "content": "from platform seven", "reasoning": "trains have platforms"},
    ]
    frame = make_frame({"id": ["a"], "messages": [turns], "label": ["x"], "source": [0]})
    new = make("typos", {"rate": 1.0}, frame)["messages"].to_list()[0]
    assert new[0]["content"] == turns[0]["content"]
    assert new[1]["content"] != turns[1]["content"]
    assert (new[2]["content"], new[2]["reasoning"]) == (turns[2]["content"], turns[2]["reasoning"])


def test_offsets_of_entities_follow(make: Make) -> None:
    text = "please deliver everything quickly towards Hamburg tomorrow"
    at = text.index("Hamburg")
    frame = rows(
        [text] * 30, fields=[with_entities([{"type": "city", "value": "Hamburg", "start": at, "end": at + 7}])] * 30
    )
    new = make("typos", {"rate": 1.0, "character_rate": 0.2}, frame)
    spans = new["fields"].str.json_path_match("$.entities[0].start").cast(pl.Int64)
    assert {text[start : start + 7] for text, start in zip(said(new), spans, strict=True)} == {"Hamburg"}


def test_rows_in_which_nothing_can_be_wrong_are_counted(make: Make, counts: dict[str, Any]) -> None:
    make("typos", {"rate": 1.0}, rows(["12345", "please help somebody"]))
    assert (counts["made"], counts["nothing_to_change"]) == (1, 1)


def test_without_pypinyin_chinese_rows_name_the_extra(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneloop.errors import MissingExtraError

    monkeypatch.setitem(__import__("sys").modules, "pypinyin", None)
    with pytest.raises(MissingExtraError, match="pypinyin is not installed") as found:
        make("typos", {"rate": 1.0}, rows(["丢失了"]))
    assert found.value.hint == "pip install 'tuneloop[chinese]'"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data of ../shared/data")
@pytest.mark.parametrize(
    "name", ["intent_en/banking77_train.csv", "medical_zh/huatuo_1200.jsonl", "gsm8k/train_3000.jsonl"]
)
def test_real_rows_get_mistakes_and_keep_their_numbers(make: Make, name: str) -> None:
    frame = read_whole(DataConfig(sources=SHARED / name))[:1000]
    new = make("typos", {}, frame)
    assert 100 < new.height < 200
    old = dict(zip(frame["id"], said(frame), strict=True))
    for (parent,), text in zip(new["parents"], said(new), strict=True):
        assert text != old[parent]
        assert fixed_pieces(text) == fixed_pieces(old[parent])
        assert chrf(text, old[parent]) > 0.3


def test_mistypes_never_leave_a_word_as_it_is() -> None:
    word = "balloon"
    for seed in range(500):
        at = random.Random(seed).randrange(1, len(word))
        edit = typos._mistype(word, at, random.Random(seed))
        assert word[: edit.start] + edit.new + word[edit.end :] != word
