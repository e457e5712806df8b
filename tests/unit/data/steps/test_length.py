from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.steps.rows import classes, dropped, pairs, real, reasons
from tuneloop.data.steps import create
from tuneloop.errors import ConfigError

HUATUO = "medical_zh/huatuo_1200.jsonl"


def test_too_short_and_too_long_say_how_long() -> None:
    found = reasons("length", pairs(["1234", "12345", "1234567"]), of="answer", min_characters=5, max_characters=6)
    assert found == [
        "too short: 4 characters, at least 5 are wanted",
        None,
        "too long: 7 characters, at most 6 are wanted",
    ]


def test_a_chinese_character_counts_as_two() -> None:
    assert reasons("length", pairs(["很可能", "很可"]), of="answer", min_characters=5)[0] is None
    assert reasons("length", pairs(["很可能", "很可"]), of="answer", min_characters=5)[1] is not None


@pytest.mark.parametrize(("of", "kept"), [("prompt", True), ("answer", False), ("all", True)])
def test_the_part_that_is_named_is_measured(of: str, kept: bool) -> None:
    (reason,) = reasons("length", pairs(["no"], prompt="A prompt that is long enough."), of=of, min_characters=20)
    assert (reason is None) == kept


def test_a_row_without_an_answer_is_not_judged_by_it() -> None:
    assert reasons("length", classes(["hi"], ["greeting"]), of="answer", min_characters=50, min_tokens=9) == [None]


def test_tokens_are_estimated_as_deepseek_documents() -> None:
    # 10 English characters: 3 tokens; 10 Chinese ones: 6
    rows = pairs(["abcdefghij", "一二三四五六七八九十"])
    assert reasons("length", rows, of="answer", min_tokens=4) == [
        "too short: about 3 tokens, at least 4 are wanted",
        None,
    ]


def test_tokens_are_counted_by_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    found = reasons("length", pairs(["one two three", "one"]), of="answer", min_tokens=2, tokenizer=tmp_path)
    assert found == [None, "too short: 1 tokens, at least 2 are wanted"]


def test_a_missing_tokenizer_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        reasons("length", pairs(["a"]), min_tokens=1, tokenizer=tmp_path)


def test_limits_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than"):
        create("length", {"min_tokens": 5, "max_tokens": 4})


def test_the_rule_of_the_tutorials_would_delete_43_percent_of_a_good_chinese_set() -> None:
    share = dropped("length", real(HUATUO), of="answer", min_characters=50, cjk_weight=1.0)
    assert share == pytest.approx(0.43, abs=0.005)


def test_a_limit_that_drops_much_is_explained_and_a_better_one_is_named() -> None:
    frame = real(HUATUO)
    step = create("length", {"of": "answer", "min_characters": 50})
    step.apply(frame)
    (note,) = step.notes
    assert "Chinese" in note
    better = int(note.split("min_characters: ")[-1].split(" ")[0])
    assert 0.001 < dropped("length", frame, of="answer", min_characters=better) <= 0.011


def test_a_limit_that_drops_little_has_no_note() -> None:
    step = create("length", {"min_characters": 5, "of": "answer"})
    step.apply(pairs(["long enough"] * 20 + ["x"]))
    assert step.notes == ()
