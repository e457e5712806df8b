from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.unit.data.steps.rows import GOOD_SETS, SHARED, classes, dropped, pairs, real, reasons
from tuneloop.data.linear import WEIGHTS, load
from tuneloop.data.sentence import english_words
from tuneloop.data.steps import create
from tuneloop.errors import MissingExtraError

ROOT = Path(__file__).parents[4]
INSULT = "这些黑人都是垃圾，真恶心"


def test_chinese_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    (reason, polite) = reasons("toxicity", classes([INSULT, "请问银行卡丢了怎么办"], ["x", "x"]))
    assert reason is not None
    assert reason == "toxic: 1.0 by the Chinese model"
    assert polite is None


def test_english_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(MissingExtraError, match=r"tuneloop\[quality\]"):
        reasons("toxicity", classes(["hello there"], ["x"]))


def test_english_is_judged_by_alt_profanity_check() -> None:
    pytest.importorskip("profanity_check")
    rude, polite = reasons("toxicity", classes(["you fucking idiot", "thank you very much"], ["x", "x"]))
    assert rude is not None
    assert rude.endswith("by the English model")
    assert polite is None


def test_one_bad_sentence_in_a_long_answer_is_found() -> None:
    polite = "您好，请携带本人有效身份证件到就近的营业网点办理挂失业务。" * 10
    clean, bad = reasons("toxicity", pairs([polite, f"{polite}{INSULT}。{polite}"], prompt="你好"))
    assert clean is None
    assert bad is not None


def test_an_insulting_customer_with_a_polite_answer_is_kept_when_answers_are_judged() -> None:
    frame = pairs(["很抱歉，我马上为您处理。"], prompt=INSULT)
    assert reasons("toxicity", frame, of="answer") == [None]
    assert reasons("toxicity", frame, of="prompt") != [None]


def test_a_flag_keeps_the_row_and_names_it() -> None:
    step = create("toxicity", {"action": "flag"})
    after = step.apply(classes([INSULT, "你好"], ["x", "y"]))
    assert after["dropped_reason"].to_list() == [None, None]
    assert list(step.notes) == ["1 of 2 rows look toxic and are kept (flag): r0"]


def test_a_drop_is_no_note() -> None:
    step = create("toxicity", {})
    step.apply(classes([INSULT], ["x"]))
    assert step.notes == ()


@pytest.mark.parametrize("path", GOOD_SETS.values(), ids=GOOD_SETS)
def test_good_sets_lose_at_most_one_percent(path: str) -> None:
    pytest.importorskip("profanity_check")
    assert dropped("toxicity", real(path)) <= 0.01


def test_english_on_davidson() -> None:
    pytest.importorskip("profanity_check")
    rows = pl.read_csv(SHARED / "safety/davidson_en_10000.csv") if SHARED.exists() else None
    if rows is None:
        pytest.skip("../shared/data is not on this machine")
    said = pl.Series(reasons("toxicity", classes(rows["tweet"].to_list(), rows["class"].cast(pl.String).to_list())))
    offensive = rows["class"] != 2  # 0 hate speech, 1 offensive language, 2 neither
    found = said.is_not_null()
    assert (found & offensive).sum() / found.sum() >= 0.99  # precision 0.996
    assert (found & offensive).sum() / offensive.sum() >= 0.82  # recall 0.84


def accuracy(said: pl.Series, rows: pl.DataFrame) -> float:
    return float((said == (rows["label"] == 1)).mean())  # type: ignore[arg-type]


def cold(name: str) -> pl.DataFrame:
    file = SHARED / "safety" / name
    if not file.exists():
        pytest.skip(f"../shared/data/safety/{name} is not on this machine")
    return pl.read_csv(file, columns=["TEXT", "label"])


def test_the_shipped_weights_keep_what_their_readme_says() -> None:
    rows = cold("cold_zh_dev.csv").join(cold("cold_zh_train_10000.csv"), on="TEXT", how="anti", maintain_order="left")
    found = pl.Series(load("toxicity_zh").probabilities(rows["TEXT"]) >= 0.5)
    assert rows.height == 6420
    assert accuracy(found, rows) == pytest.approx(0.883, abs=0.001)
    assert (WEIGHTS / "toxicity_zh.npz").stat().st_size <= 300_000


def test_the_shipped_english_weights_keep_what_their_readme_says() -> None:
    file = SHARED / "safety" / "davidson_en_10000.csv"
    if not file.exists():
        pytest.skip("../shared/data/safety/davidson_en_10000.csv is not on this machine")
    posts = pl.read_csv(file, columns=["class", "tweet"]).unique("tweet", keep="first", maintain_order=True)[3::4]
    found = load("toxicity_en").probabilities(pl.Series([english_words(text) for text in posts["tweet"]])) >= 0.9
    offensive = (posts["class"] != 2).to_numpy()
    assert posts.height == 2500
    assert (found & offensive).sum() / offensive.sum() == pytest.approx(0.817, abs=0.001)
    assert (found & offensive).sum() / found.sum() == pytest.approx(0.996, abs=0.001)
    assert (WEIGHTS / "toxicity_en.npz").stat().st_size <= 300_000


@pytest.mark.slow
def test_training_again_gives_the_shipped_model(tmp_path: Path) -> None:
    cold("cold_zh_dev.csv")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/train_toxicity.py", "--data", SHARED / "safety", "--out", tmp_path / "again.npz"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[0])["accuracy"] == pytest.approx(0.883, abs=0.003)
