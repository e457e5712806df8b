from __future__ import annotations

import random

import numpy as np
import pytest

from tests.unit.evaluate.conftest import record
from tuneloop.evaluate import scorers
from tuneloop.evaluate.answers import UNKNOWN, labels_of
from tuneloop.evaluate.registry import Task
from tuneloop.evaluate.scorers import BUILT_IN


def task(pairs: list[tuple[str, str | None]]) -> Task:
    records = [record(i, f"q{i}", answer, label) for i, (answer, label) in enumerate(pairs)]
    labels, why = labels_of(records)
    return Task(records, labels, why, resamples=200, seed=0)


def classes(right: str) -> Task:
    return task([(c, c) for c in right])


def test_macro_f1_agrees_with_the_example_of_scikit_learn() -> None:
    """f1_score's documentation: y_true 0 1 2 0 1 2, y_pred 0 2 1 0 0 1, average="macro" -> 0.2666..."""
    interval = BUILT_IN["macro_f1"].total(classes("abcabc"), list("acbaab"))  # type: ignore[misc]
    assert interval.value == pytest.approx(0.26666666666666666)
    assert interval.low <= interval.value <= interval.high


@pytest.mark.parametrize("name", ["macro_f1", "bleu4"])
def test_all_right_or_all_wrong_is_not_certain(name: str) -> None:
    """Resampling 12 right answers gives 12 right answers; Wilson's 12 of 12 begins at 0.757, 0 of 12 ends at 0.243."""
    t = task([(s, s) for s in SENTENCES * 4])
    top = 100.0 if name == "bleu4" else 1.0
    right = BUILT_IN[name].total(t, [r.answer for r in t.records])  # type: ignore[misc]
    wrong = BUILT_IN[name].total(t, ["?"] * 12)  # type: ignore[misc]
    assert (right.low, right.high) == pytest.approx((0.7575 * top, top), rel=1e-3)
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 0.2425 * top), rel=1e-3)


def test_per_class_agrees_with_the_example_of_scikit_learn() -> None:
    """classification_report's documentation: y_true 0 1 2 2 2, y_pred 0 0 2 2 1 -> precision .5 0 1, recall 1 0 .67,
    F1 .67 0 .80, support 1 1 3."""
    t = classes("abccc")
    assert t.labels is not None
    found = scorers.per_class(scorers.confusion(t.labels, t.records, list("aaccb")))
    assert [round(found[c]["precision"].value, 2) for c in "abc"] == [0.5, 0.0, 1.0]
    assert [round(found[c]["recall"].value, 2) for c in "abc"] == [1.0, 0.0, 0.67]
    assert [round(found[c]["f1"].value, 2) for c in "abc"] == [0.67, 0.0, 0.8]
    assert [found[c]["recall"].n for c in "abc"] == [1, 1, 3]


def test_confusion_keeps_unknown_answers_in_a_column_of_their_own() -> None:
    t = classes("aab")
    assert t.labels is not None
    assert scorers.confusion(t.labels, t.records, ["a", "nonsense", "a"]) == {
        "labels": ["a", "b"],
        "columns": ["a", "b", UNKNOWN],
        "counts": [[1, 0, 1], [1, 0, 0]],
    }


def test_a_class_that_only_the_model_names_does_not_enter_macro_f1() -> None:
    sums = np.array([[[2.0, 0.0], [2.0, 1.0], [3.0, 0.0]]])  # class b: answered once, never asked
    assert scorers.macro_f1(sums)[0] == pytest.approx(2 * 2 / (2 + 3))


SENTENCES = ["the cat sat on the mat today", "a dog ran over the green hill", "my card was lost in the old town"]


def test_bleu_of_many_samples_equals_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    draw = random.Random(2)
    for k in (1, 3, 12):
        pairs = [(draw.choice(SENTENCES), " ".join(draw.choices(" ".join(SENTENCES).split(), k=9))) for _ in range(k)]
        pairs[0] = (SENTENCES[0], SENTENCES[0].replace("today", "again"))
        t = task([(reference, None) for reference, _ in pairs])
        answers = [a for _, a in pairs]
        expected = sacrebleu.BLEU().corpus_score(answers, [[r for r, _ in pairs]]).score
        assert BUILT_IN["bleu4"].total(t, answers).value == pytest.approx(expected)  # type: ignore[misc]


def test_bleu_smooths_missing_matches_as_sacrebleu_does() -> None:
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    reference, answer = "the cat sat on the mat today", "the cat ran to a mat under"
    expected = sacrebleu.BLEU().corpus_score([answer], [[reference]]).score
    assert expected > 0
    assert BUILT_IN["bleu4"].total(task([(reference, None)]), [answer]).value == pytest.approx(expected)  # type: ignore[misc]


def test_bleu_of_chinese_counts_characters() -> None:
    t = task([("患者需要多喝水休息", None)])
    assert BUILT_IN["bleu4"].total(t, ["患者需要多喝水休息"]).value == pytest.approx(100)  # type: ignore[misc]
    assert BUILT_IN["bleu4"].total(t, ["患者需要多喝茶休息"]).value == pytest.approx(  # type: ignore[misc]
        100 * (8 / 9 * 6 / 8 * 4 / 7 * 3 / 6) ** 0.25
    )


@pytest.mark.parametrize("answers", [[""], ["a b"], ["!"]])
def test_bleu_of_answers_without_four_tokens_is_zero(answers: list[str]) -> None:
    assert BUILT_IN["bleu4"].total(task([(SENTENCES[0], None)]), answers).value == 0.0  # type: ignore[misc]


def test_bleu_does_not_fit_short_labels() -> None:
    assert "four tokens" in str(BUILT_IN["bleu4"].unfit(classes("ab")))
    assert BUILT_IN["bleu4"].unfit(task([(SENTENCES[0], None)])) is None


def test_accuracy_does_not_fit_free_text() -> None:
    assert "free text" in str(BUILT_IN["accuracy"].unfit(task([("long answer", None)])))


def test_scores_that_are_right_or_wrong_get_wilsons_interval() -> None:
    assert scorers.mean([1.0, 0.0, 1.0], classes("abc")).method == "wilson"
    assert scorers.mean([0.5, 0.0, 1.0], classes("abc")).method.startswith("bootstrap")


def test_a_scorer_that_returns_nan_is_our_bug_and_says_so() -> None:
    with pytest.raises(ValueError, match="not finite"):
        scorers.mean([0.5, float("nan")], classes("ab"))
