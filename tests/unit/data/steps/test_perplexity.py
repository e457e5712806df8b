from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.unit.data.steps.rows import classes, dropped, real, reasons
from tuneloop.data.frame import settle
from tuneloop.data.steps import create
from tuneloop.data.steps.perplexity import Perplexity
from tuneloop.errors import ConfigError

NOISE = [
    "lkjhgfdsa 8734 kjh qq kjhsdf skjdhf",
    "ÃÂ©Ã¢â‚¬â„¢ ÃƒÂ© caf ÃÂ©Ã¢â‚¬",
    "Ik wil graag weten waarom mijn pas geweigerd is",
]


def questions(n: int) -> list[str]:
    """Questions of one kind, all different."""
    verbs, things = ["activate", "replace", "cancel", "order", "track"], ["card", "transfer", "payment", "account"]
    asked = [f"How can I {v} my {t} in branch {k % 50}?" for k in range(n) for v in verbs for t in things]
    return asked[:n]


def test_noise_is_dropped_and_questions_are_kept() -> None:
    found = reasons("perplexity", classes([*questions(600), *NOISE], ["x"] * (600 + len(NOISE))))
    assert all(reason is None for reason in found[:600])
    assert all(reason is not None and reason.startswith("perplexity: ") for reason in found[600:])


def test_chinese_is_not_compared_with_english() -> None:
    chinese = [f"我的银行卡丢了，第{k}次来问怎么办理挂失？" for k in range(600)]
    found = reasons("perplexity", classes([*questions(3000), *chinese], ["x"] * 3600))
    assert sum(reason is not None for reason in found) == 0


def test_too_few_rows_are_not_judged_and_that_is_said() -> None:
    step = create("perplexity", {})
    after = step.apply(classes([*questions(50), *NOISE], ["x"] * 53))
    assert after["dropped_reason"].null_count() == 53
    assert "too few" in step.notes[0]


def test_a_percentile_drops_that_share() -> None:
    texts = [f"{q} {np.random.default_rng(k).integers(10**9)}" for k, q in enumerate(questions(1000))]
    share = dropped("perplexity", classes(texts, ["x"] * 1000), max_deviations=None, percentile=95)
    assert share == pytest.approx(0.05, abs=0.002)


def test_a_reference_judges_every_row_by_itself(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("\n".join(questions(1000)), encoding="utf-8")
    options = {"reference": tmp_path / "good.txt", "max_perplexity": 20.0}
    assert reasons("perplexity", classes([questions(1)[0]], ["x"]), **options) == [None]
    (reason,) = reasons("perplexity", classes([NOISE[0]], ["x"]), **options)
    assert reason is not None
    assert reason.endswith("above 20.0 (max_perplexity)")


def test_a_missing_reference_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        reasons("perplexity", classes(NOISE, ["x"] * 3), reference=tmp_path / "none.txt")


def test_another_language_model_can_score() -> None:
    step = Perplexity(max_perplexity=8.0).scored_by(lambda texts: np.where(texts.str.contains("bad"), 4.0, 1.0))
    after = step.apply(classes(["a bad text of some length", "a good text of some length"], ["x", "x"]))
    assert after["dropped_reason"].to_list() == ["perplexity: 16.0 a character, above 8.0 (max_perplexity)", None]


def test_digests_of_parts_decide_what_one_digest_decides() -> None:
    frame = classes([*questions(600), *NOISE], ["x"] * 603)
    step = Perplexity()
    parts = pl.concat([step.digest(frame[:100]), step.digest(frame[100:])])
    digests = parts.with_row_index("at").with_columns(pl.col("at").cast(pl.Int64)).lazy()
    assert settle(frame, step.name, step.decide(digests)).equals(step.apply(frame), null_equal=True)


@pytest.mark.parametrize("path", ["intent_en/banking77_train.csv", "medical_zh/huatuo_1200.jsonl"])
def test_good_sets_lose_next_to_nothing(path: str) -> None:
    assert dropped("perplexity", real(path)) <= 0.001
