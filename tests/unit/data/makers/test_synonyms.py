"""Synonyms from WordNet's own files and from a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.makers.conftest import Make, rows, said, with_entities
from tuneloop.data.config import MakerConfig
from tuneloop.data.makers import wordlist
from tuneloop.data.makers.wordlist import WordList
from tuneloop.data.makers.wordnet import WordNet
from tuneloop.errors import ConfigError

FOLDER = Path("/usr/share/wordnet")
with_wordnet = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs WordNet: apt install wordnet-base")


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    return WordNet(FOLDER)


@with_wordnet
def test_lines_of_the_index_are_found(wordnet: WordNet) -> None:
    # index.verb of WordNet 3.0: "purchase v 1 6 @ ~ * $ + ; 1 1 02207224"
    assert wordnet.sense("purchase", "verb") == (2207224, 1)
    assert wordnet.sense("purchase", "adv") is None
    assert wordnet.sense("zzzz", "noun") is None
    assert wordnet.sense("\u00e9t\u00e9", "noun") is None


@with_wordnet
def test_first_and_last_lines_are_found(wordnet: WordNet) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        lines = [line for line in (FOLDER / f"index.{part}").read_text().splitlines() if not line.startswith("  ")]
        for line in (lines[0], lines[-1]):
            assert wordnet.sense(line.split()[0], part) is not None


@with_wordnet
def test_frequency_is_the_count_of_the_first_sense(wordnet: WordNet) -> None:
    # cntlist.rev of WordNet 3.0 holds "often%4:02:00:: 1 153" and "frequently%4:02:00:: 1 39"
    assert wordnet.frequency("often", "adv") == 153
    assert wordnet.frequency("frequently", "adv") == 39
    assert wordnet.frequency("often", "noun") == 0


@with_wordnet
@pytest.mark.parametrize(
    ("word", "others"),
    [
        ("often", {"frequently"}),
        ("huge", {"immense", "vast"}),
        ("completely", {"wholly", "entirely", "totally", "altogether"}),
        ("week", set()),  # hebdomad was never tagged
        ("tell", set()),  # a verb
        ("about", set()),  # a preposition first of all
        ("left", set()),  # may be a form of leave
        ("bank", set()),  # noun and verb
        ("zzzz", set()),
    ],
)
def test_only_certain_synonyms_are_given(wordnet: WordNet, word: str, others: set[str]) -> None:
    assert set(wordnet.synonyms(word)) == others


@with_wordnet
def test_english_rows_get_another_word(make: Make) -> None:
    (new,) = said(make("synonyms", {"rate": 1.0, "wordnet": str(FOLDER)}, rows(["it often fails"])))
    assert new == "it frequently fails"


@with_wordnet
def test_the_article_fits_the_new_word(make: Make) -> None:
    new = said(make("synonyms", {"rate": 1.0, "wordnet": str(FOLDER)}, rows(["a huge fee"] * 20)))
    assert set(new) == {"a vast fee"}  # not "a immense fee"


@with_wordnet
def test_capitals_may_be_names_and_stay(make: Make, counts: dict[str, Any]) -> None:
    make(
        "synonyms",
        {"rate": 1.0, "wordnet": str(FOLDER)},
        rows(["Often is a name", "often"], fields=[None, with_entities({"w": "often"})]),
    )
    assert (counts["made"], counts["nothing_to_change"]) == (0, 2)


CILIN = "Aa01A01= 丢失 遗失\nAa01A02# 银行 钱庄\nAa01A03@ 卡\nAa01A04= 打 击打\nAa01A05= 打 购买\n"


@pytest.fixture
def cilin(tmp_path: Path) -> Path:
    path = tmp_path / "cilin.txt"
    path.write_bytes(CILIN.encode("gb18030"))
    return path


def test_cilin_gives_words_that_mean_the_same_and_no_others(cilin: Path) -> None:
    words = wordlist.read(cilin)
    assert words.synonyms("丢失") == ["遗失"]
    assert words.synonyms("银行") == []  # '#': only related
    assert words.synonyms("卡") == []
    assert words.synonyms("购买") == []  # its only companion has two meanings


def test_tabs_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("# my list\n处理\t办理\t处置\n\n", encoding="utf-8")
    assert wordlist.read(path).synonyms("办理") == ["处理", "处置"]


def test_a_line_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("处理\t办理\n处理 办理\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a line of synonyms") as found:
        wordlist.read(path)
    assert found.value.where == f"{path}:2"


def test_longest_match_from_both_sides_must_agree() -> None:
    words = WordList([["研究", "探究"], ["研究生", "硕士"], ["生命", "性命"], ["起源", "来源"]])
    # from the left 研究生|命|起源, from the right 研究|生命|起源: only 起源 is certain
    assert [found.word for found in words.find("研究生命起源")] == ["起源"]


def test_latin_words_of_a_list_are_found_whole() -> None:
    words = WordList([["car", "auto"]])
    assert [found.start for found in words.find("a card, a car")] == [10]


def test_chinese_rows_get_another_word(make: Make, cilin: Path) -> None:
    (new,) = said(make("synonyms", {"rate": 1.0, "word_list": str(cilin)}, rows(["银行卡丢失了"])))
    assert new == "银行卡遗失了"


def test_a_source_is_needed() -> None:
    with pytest.raises(ValueError, match="no source of synonyms"):
        MakerConfig(name="synonyms")


def test_a_folder_without_wordnet_is_named_before_anything_is_made(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a WordNet folder") as found:
        make("synonyms", {"wordnet": str(tmp_path)}, rows(["a"]))
    assert "wordnet-base" in str(found.value.hint)
