"""The data stage from file to records, on small hand-made files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tuneloop.data import DataArtifact, DataConfig, explain, input_hashes, load, read_records, run
from tuneloop.data.steps.text import Repair
from tuneloop.errors import DataError
from tuneloop.rundir import RunDir
from tuneloop.types import SPLITS, Message

CSV = """text,intent
"I lost my card, help",lost
"I LOST my card, help!",lost
Where is my <b>new</b> card?,arrival
"Where is
my old card",arrival
,arrival
ring me on 07700 900123,contact
"open quote,contact
my mail is a.b@mail.example,contact
cut off
"""


def stage(
    tmp_path: Path, content: str | bytes = CSV, name: str = "raw.csv", **config: Any
) -> tuple[DataArtifact, RunDir]:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(data)
    out = RunDir(tmp_path / "out")
    out.path.mkdir(exist_ok=True)
    return run(DataConfig(**{"sources": tmp_path / name, **config}), out), out


def ledger(out: RunDir) -> pl.DataFrame:
    return pl.read_parquet(out / "ledger.parquet")


def test_every_row_of_the_file_has_its_fate(tmp_path: Path) -> None:
    artifact, out = stage(tmp_path)

    fates = ledger(out).select("line", "step", "reason").rows()
    first = ledger(out)["id"][0]
    assert fates == [
        (2, None, None),
        (3, "exact_duplicates", f"duplicate: same text as {first}"),
        (4, None, None),
        (5, None, None),
        (7, "empty", "empty: there is no text"),
        (8, None, None),
        (9, "read", "broken quote: it opens here and is not closed correctly by line 11"),
        (10, None, None),
        (11, "truncated", "ragged: 1 of 2 fields"),
    ]
    assert [artifact.counts[k] for k in ("rows_in", "kept", "dropped")] == [9, 5, 4]
    assert sum(artifact.counts[split] for split in SPLITS) == 5
    assert artifact.dropped == {"duplicate": 1, "empty": 1, "broken quote": 1, "ragged": 1}
    assert artifact.detected == "text 'text' with its class in 'intent'"


def test_records_carry_system_prompt_text_class_and_origin(tmp_path: Path) -> None:
    artifact, out = stage(
        tmp_path, "text,label\n<p>a&amp;b question</p>,x\nother words,y\nthird row,y\n", system="One of: {labels}."
    )

    records = [r for split in SPLITS for r in read_records(out.path, split)]
    record = next(r for r in records if r.origin == "raw.csv:2")

    assert artifact.labels == ("x", "y")
    assert record.messages == (
        Message("system", "One of: x, y."),
        Message("user", "a&b question"),
        Message("assistant", "x"),
    )
    assert (record.label, record.answer) == ("x", "x")


def test_a_row_keeps_its_own_system_prompt_and_its_answer(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "A"},
        ]
    }
    _, out = stage(tmp_path, json.dumps(row) + "\n", "raw.jsonl", system="other")
    (record,) = read_records(out.path, "train")
    assert [m.content for m in record.messages] == ["S", "Q", "A"]


def test_load_reads_what_run_returned(tmp_path: Path) -> None:
    artifact, out = stage(tmp_path)
    assert load(out) == artifact


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    names = ("ledger.parquet", "summary.json", "report.html", *(f"{s}.jsonl" for s in SPLITS))
    _, out = stage(tmp_path)
    first = {name: (out / name).read_bytes() for name in names}
    stage(tmp_path)
    assert {name: (out / name).read_bytes() for name in names} == first


def test_explain_follows_one_row(tmp_path: Path) -> None:
    _, out = stage(tmp_path)
    row = explain(out.path, "raw.csv:4")

    assert row.raw == "Where is my <b>new</b> card?,arrival"
    assert [(c.step, c.before, c.after) for c in row.changes] == [
        ("html", "Where is my <b>new</b> card?", "Where is my new card?")
    ]
    assert row.messages == (Message("user", "Where is my new card?"),)
    assert row.fate in SPLITS
    assert explain(out.path, row.id[:10]) == row


def test_explain_says_why_a_row_is_gone_and_where_its_personal_data_was(tmp_path: Path) -> None:
    _, out = stage(tmp_path)
    assert explain(out.path, "raw.csv:9").step == "read"
    phone = explain(out.path, "raw.csv:8")
    assert phone.redactions == ({"message": 0, "type": "PHONE", "start": 11, "end": 23},)


@pytest.mark.parametrize(("asked", "what"), [("nope", "there is no row 'nope'"), ("", "no row is named")])
def test_explain_refuses_what_it_cannot_find(tmp_path: Path, asked: str, what: str) -> None:
    _, out = stage(tmp_path)
    with pytest.raises(DataError, match=what):
        explain(out.path, asked)


def test_explain_without_a_ledger_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        explain(tmp_path, "x")


def test_the_report_shows_no_personal_data(tmp_path: Path) -> None:
    _, out = stage(tmp_path)
    report = (out / "report.html").read_text(encoding="utf-8")

    assert "900123" not in report
    assert "a.b@mail" not in report
    for heading in ("Flow of rows", "Dropped rows", "Classes", "Lengths in characters", "Personal data", "Sources"):
        assert f"<h2>{heading}</h2>" in report
    assert "<script" not in report
    assert "http" not in report


def test_personal_data_in_a_dropped_row_is_masked_in_the_report(tmp_path: Path) -> None:
    _, out = stage(tmp_path, 'text,label\nfine,x\n"ring 07700 900123,x\nand a.b@mail.example only\n')
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "[PHONE]" in report
    assert "[EMAIL]" in report
    assert "900123" not in report
    assert "a.b@" not in report


def test_a_step_that_drops_much_is_named_in_a_warning(tmp_path: Path) -> None:
    _, out = stage(tmp_path, "text,label\n" + "same,x\n" * 5 + "other,x\n")
    warnings = json.loads((out / "summary.json").read_text())["warnings"]
    assert any(w.startswith("exact_duplicates dropped 4 of 6 rows (67%)") for w in warnings)


def test_a_class_with_one_row_is_named_in_a_warning(tmp_path: Path) -> None:
    _, out = stage(tmp_path, "text,label\n" + "".join(f"question {w},x\n" for w in "abcdefgh") + "lonely,rare\n")
    warnings = json.loads((out / "summary.json").read_text())["warnings"]
    assert any("class 'rare' has one row only" in w for w in warnings)
    assert any(r.label == "rare" for r in read_records(out.path, "train"))


def test_nothing_left_to_train_on_is_an_error_and_the_ledger_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row of 2 is left to train on; most common reason: empty"):
        stage(tmp_path, "text,label\n,x\n ,y\n")
    assert pl.read_parquet(tmp_path / "out/ledger.parquet")["step"].to_list() == ["empty", "empty"]


def test_a_file_of_which_nothing_can_be_read_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its first 2 rows can be read; the first: not JSON") as error:
        stage(tmp_path, "\n{broken\n[1]\n", "raw.jsonl")
    assert error.value.where == "raw.jsonl:2"


def test_a_prescribed_test_file_stays_whole_and_its_rows_leave_train(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nalpha question,x\nbeta question,y\nGamma!,x\ndelta row,y\n")
    (tmp_path / "test.csv").write_text("text,label\ngamma,x\ngamma,x\nsomething else,y\n")
    out = RunDir(tmp_path / "out")
    out.path.mkdir()
    sources = (
        {"path": tmp_path / "train.csv", "rows": 2, "split": "train"},
        {"path": tmp_path / "test.csv", "split": "test"},
    )

    artifact = run(DataConfig(sources=sources), out)

    assert artifact.counts == {
        "rows_in": 7,
        "derived": 0,
        "kept": 5,
        "dropped": 2,
        "train": 2,
        "validation": 0,
        "test": 3,
    }
    assert artifact.dropped == {"leak": 1, "not sampled": 1}
    assert explain(out.path, "train.csv:4").partner == explain(out.path, "test.csv:2").id
    assert json.loads((out / "summary.json").read_text())["leaks_removed"] == 1


def test_read_records_names_the_broken_line(tmp_path: Path) -> None:
    _, out = stage(tmp_path)
    with (out / "train.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match="not a record") as error:
        read_records(out.path, "train")
    assert error.value.where is not None
    assert error.value.where.startswith(str(out / "train.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path, "train")


def test_steps_are_the_ones_configured(tmp_path: Path) -> None:
    artifact, out = stage(tmp_path, "text,label\nsame,x\nsame,x\ncafÃ©,x\n", steps=("repair",))
    assert artifact.counts["kept"] == 3
    assert ledger(out)["changed_by"].to_list() == [[], [], [Repair.name]]


def test_one_damaged_file_among_others_costs_its_rows_and_not_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for k in range(3):
        (folder / f"good{k}.csv").write_text(f"text,label\nquestion {k} a,x\nquestion {k} b,y\n")
    (folder / "empty.csv").write_text("")
    (folder / "list.json").write_text("[1, 2]")
    out = RunDir(tmp_path / "out")
    out.path.mkdir()

    artifact = run(DataConfig(sources=folder), out)

    lost = ledger(out).filter(pl.col("step") == "read").select("origin", "reason").rows()
    assert artifact.counts["rows_in"] == 6 + 1 + 2
    assert [origin for origin, _ in lost] == ["empty.csv:1", "list.json:1", "list.json:1#2"]
    assert lost[0][1] == "unreadable file: the file is empty"
    warnings = json.loads((out / "summary.json").read_text())["warnings"]
    assert warnings[0] == "2 of 5 files could not be used; empty.csv is unreadable: the file is empty"


def test_a_folder_of_nothing_but_damaged_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "raw" / name).write_text("")
    out = RunDir(tmp_path / "out")
    out.path.mkdir()
    with pytest.raises(DataError, match="none of the 2 files can be used; the first is unreadable: the file is empty"):
        run(DataConfig(sources=tmp_path / "raw"), out)


def test_what_options_name_is_an_input_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.csv").write_text("text,label\na question,x\n")
    (tmp_path / "reference.txt").write_text("one")
    monkeypatch.setenv("TUNELOOP_PSEUDONYM_KEY", "k" * 32)
    steps = [{"redact": {"mask": "pseudonym"}}, {"perplexity": {"reference": str(tmp_path / "reference.txt")}}]
    config = DataConfig(sources=tmp_path / "raw.csv", steps=steps)
    before = input_hashes(config)
    assert set(before) == {"raw.csv", "0 redact key", "1 perplexity reference"}
    (tmp_path / "reference.txt").write_text("two")
    monkeypatch.setenv("TUNELOOP_PSEUDONYM_KEY", "q" * 32)
    assert {name for name, value in input_hashes(config).items() if value != before[name]} == set(before) - {"raw.csv"}
