from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluate.conftest import CharChat, FakeBundle, Folder, TableEngine, record
from tuneloop.engines import Capabilities
from tuneloop.errors import ConfigError, DataError, ServeError
from tuneloop.evaluate import EvaluateConfig, Evaluation, Subject, load, run, scores
from tuneloop.evaluate.asking import budget, sample
from tuneloop.rundir import RunDir
from tuneloop.types import Interval, Media, Message, Record

CLASSES = ["lost_card", "refund", "其他"]
RECORDS = [record(i, f"question {i}", CLASSES[i % 3], CLASSES[i % 3]) for i in range(30)]
RIGHT = {f"question {i}": CLASSES[i % 3] for i in range(30)}
CONFIG = EvaluateConfig(resamples=200, latency_requests=4)


def evaluate(folder: Path, out: Path, engine: Any, config: EvaluateConfig = CONFIG, chat: Any = None) -> Evaluation:
    out.mkdir(exist_ok=True)
    return run(config, Subject(FakeBundle(), "tuned"), folder, engine, chat or CharChat(), RunDir(out))


def test_a_model_that_is_always_right(folder: Folder, tmp_path: Path) -> None:
    found = evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(RIGHT))
    assert found.n == 30
    assert found.metrics["accuracy"].value == found.metrics["macro_f1"].value == 1.0
    assert found.metrics["accuracy"].low == pytest.approx(0.8865, abs=1e-4)  # 30 of 30, Wilson
    assert found.metrics["latency_p50_s"].n == 4
    assert {"perplexity", "rouge_l", "tokens_per_s", "first_token_p50_s"} <= set(found.metrics)
    assert "four tokens" in found.skipped["bleu4"]


def test_every_metric_has_an_interval_around_it(folder: Folder, tmp_path: Path) -> None:
    answers = RIGHT | {f"question {i}": "refund" for i in range(9)}
    found = evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(answers))
    for name, interval in found.metrics.items():
        assert interval.low <= interval.value <= interval.high, name
        assert interval.n > 0, name


def test_wrong_and_unknown_answers_are_told_apart(folder: Folder, tmp_path: Path) -> None:
    answers = RIGHT | {"question 0": "refund", "question 1": "I think it is refund!", "question 2": "???"}
    found = evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(answers))
    assert found.metrics["accuracy"].value == pytest.approx(27 / 30)
    assert found.metrics["accuracy_lenient"].value == pytest.approx(28 / 30)
    assert found.facts["unparseable"] == 2
    assert found.per_class["lost_card"]["recall"].value == pytest.approx(9 / 10)


def test_rows_without_a_right_answer_in_words_are_not_asked_and_counted(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [replace(r, desirable=i % 2 == 0) for i, r in enumerate(RECORDS[:10])]
    seen = Message("user", "question 11", media=(Media("image", "receipt.png"),))
    pictured = replace(RECORDS[11], messages=(seen, *RECORDS[11].messages[1:]))
    engine = TableEngine(RIGHT)
    found = evaluate(folder(test=[*judged, pictured, *RECORDS[12:]]), tmp_path / "out", engine)
    assert found.n == 5 + 18
    assert sorted(found.facts["left_out"].values()) == [1, 5]
    assert not {"r1", "r3", "r11"} & {request for request, _ in engine.asked}
    assert "5 rows of the test split are not asked: undesirable" in capsys.readouterr().err


def test_a_split_of_undesirable_answers_only_is_refused(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row of the test split can be asked: undesirable"):
        evaluate(folder(test=[replace(r, desirable=False) for r in RECORDS]), tmp_path / "out", TableEngine(RIGHT))


def test_what_is_written_is_what_is_read(folder: Folder, tmp_path: Path) -> None:
    made = evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(RIGHT))
    assert load(RunDir(tmp_path / "out")) == made
    strict = json.loads((tmp_path / "out/evaluation.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert strict["subject"] == {"label": "tuned", "path": "model", "precision": "float32", "version": "abc123"}


def test_a_number_that_cannot_be_computed_is_null_on_disk() -> None:
    made = Evaluation({}, 1, {"x": Interval(float("nan"), 0.0, 1.0, 0, "wilson")})
    assert made.to_json()["metrics"]["x"]["value"] is None
    assert Evaluation.from_json(made.to_json()).metrics["x"].value != 0


def test_scores_are_paired_by_record(folder: Folder, tmp_path: Path) -> None:
    evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(RIGHT | {"question 4": "refunds"}))
    found = {(s.record_id, s.metric): s.value for s in scores(RunDir(tmp_path / "out"))}
    assert found["r4", "accuracy"] == 0.0
    assert found["r5", "accuracy"] == 1.0
    assert len(found) == 30 * 3  # accuracy, accuracy_lenient, rouge_l


def test_free_text_gets_no_accuracy_and_says_why(folder: Folder, tmp_path: Path) -> None:
    long = [record(i, f"question {i}", f"please wait for {i} more days", None) for i in range(12)]
    answers = {f"question {i}": f"please wait for {i} days" for i in range(12)}
    found = evaluate(folder(test=long), tmp_path / "out", TableEngine(answers))
    assert found.skipped["accuracy"] == "12 of 12 records have no label, so the answers are free text"
    assert {"bleu4", "rouge_l"} <= set(found.metrics)
    assert found.confusion == found.per_class == {}


@pytest.mark.parametrize("die_after", [0, 1, 3, 5, 17, 29])
def test_a_killed_run_goes_on_without_asking_again(folder: Folder, tmp_path: Path, die_after: int) -> None:
    at, out = folder(test=RECORDS), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(at, out, TableEngine(RIGHT, die_after=die_after))
    with (out / "responses.jsonl").open("ab") as file:
        file.write(b'{"id": "r1", "ke')  # the line the crash cut short
    engine = TableEngine(RIGHT)
    found = evaluate(at, out, engine)
    assert len(engine.asked) == 30 - die_after
    assert found.metrics["accuracy"].value == 1.0
    assert len((out / "responses.jsonl").read_text().splitlines()) == 30


def test_a_finished_run_asks_nothing(folder: Folder, tmp_path: Path) -> None:
    at = folder(test=RECORDS)
    first = evaluate(at, tmp_path / "out", TableEngine(RIGHT))
    engine = TableEngine({})
    assert evaluate(at, tmp_path / "out", engine) == first
    assert (engine.asked, engine.scored) == ([], 0)


def test_latency_is_measured_alone_and_the_rest_together(folder: Folder, tmp_path: Path) -> None:
    engine = TableEngine(RIGHT)
    evaluate(folder(test=RECORDS), tmp_path / "out", engine, EvaluateConfig(latency_requests=4, concurrency=8))
    open_at_submit = [n for _, n in engine.asked]
    assert open_at_submit[:5] == [1] * 5  # one to warm up, four to measure
    assert max(open_at_submit[5:]) == 8
    assert len({i for i, _ in engine.asked}) == 30


def test_reasoning_is_not_part_of_the_answer(folder: Folder, tmp_path: Path) -> None:
    answers = {q: f"Is it refund? No.</think>{a}" for q, a in RIGHT.items()}
    found = evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(answers), chat=CharChat(think=True))
    assert found.metrics["accuracy"].value == 1.0
    assert (
        json.loads((tmp_path / "out/responses.jsonl").read_text().splitlines()[0])["reasoning"] == "Is it refund? No."
    )


def test_failed_questions_count_as_wrong_and_are_asked_again(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = folder(test=RECORDS)
    found = evaluate(at, tmp_path / "out", TableEngine(RIGHT, fail=frozenset({"question 3"})))
    assert (found.metrics["accuracy"].value, found.facts["failed"]) == (pytest.approx(29 / 30), 1)
    assert "it is broken" in capsys.readouterr().err
    assert evaluate(at, tmp_path / "out", TableEngine(RIGHT)).facts["failed"] == 0


def test_an_engine_that_answers_nothing_is_an_error(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="no question could be answered: it is broken"):
        evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(RIGHT, fail=frozenset(RIGHT)))


def test_an_empty_split_is_an_error(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the test split is empty"):
        evaluate(folder(train=RECORDS), tmp_path / "out", TableEngine({}))


def test_an_unknown_metric_is_found_before_anything_is_asked(folder: Folder, tmp_path: Path) -> None:
    engine = TableEngine(RIGHT)
    with pytest.raises(ConfigError, match="blue4"):
        evaluate(folder(test=RECORDS), tmp_path / "out", engine, EvaluateConfig(metrics=("blue4",)))
    assert engine.asked == []


def test_a_greedy_engine_refuses_a_temperature(folder: Folder, tmp_path: Path) -> None:
    engine = TableEngine(RIGHT, Capabilities(sampling=False))
    with pytest.raises(ConfigError, match="most likely"):
        evaluate(folder(test=RECORDS), tmp_path / "out", engine, EvaluateConfig(temperature=0.6))


def test_what_a_difference_must_be_is_said_before_the_run(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(RIGHT))
    shown = capsys.readouterr().err
    assert "30 questions (test, all)" in shown
    assert "±16.8 points at worst" in shown  # Wilson, 15 of 30: 0.332 to 0.668


def test_a_sample_keeps_the_class_shares() -> None:
    records = [record(i, f"q{i}", "a", "a" if i < 60 else "b" if i < 90 else "c") for i in range(100)]
    chosen = sample(records, 10, seed=3)
    assert Counter(r.label for r in chosen) == {"a": 6, "b": 3, "c": 1}
    assert [r.id for r in chosen] == sorted((r.id for r in chosen), key=lambda i: int(i[1:]))
    assert chosen == sample(records, 10, seed=3) != sample(records, 10, seed=4)


@pytest.mark.parametrize("limit", [1, 7, 33, 99])
def test_a_sample_has_the_size_that_was_asked_for(limit: int) -> None:
    records = [record(i, f"q{i}", "a", f"class {i % 13}") for i in range(100)]
    assert len({r.id for r in sample(records, limit, seed=0)}) == limit


def test_the_token_budget_fits_the_longest_reference() -> None:
    chat: Any = CharChat()
    records = [record(1, "q", "x" * 15, None), record(2, "q", "y", None)]
    assert budget(EvaluateConfig(), chat, records) == 20 + 8  # 16 with the end of turn, a quarter more, and a few
    assert budget(EvaluateConfig(max_new_tokens=3), chat, records) == 3


def test_a_template_that_thinks_first_gets_room_for_it() -> None:
    chat: Any = CharChat(think=True)
    assert budget(EvaluateConfig(reasoning_tokens=100), chat, [record(1, "q", "xxx", None)]) == 5 + 8 + 100


def test_a_record_without_an_answer_does_not_set_the_budget() -> None:
    chat: Any = CharChat()
    assert budget(EvaluateConfig(), chat, [Record("r", (Message("user", "q"),))]) == 8


def test_cut_answers_are_counted(folder: Folder, tmp_path: Path) -> None:
    config = EvaluateConfig(max_new_tokens=3, resamples=200)
    found = evaluate(folder(test=RECORDS), tmp_path / "out", TableEngine(RIGHT), config)
    assert found.facts["cut"] == 20  # 其他 fits
