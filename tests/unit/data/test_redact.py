"""The redact step: what it needs, what it writes into the ledger, and that it holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tuneloop.data import StepConfig
from tuneloop.data.config import DataConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.personal import names
from tuneloop.data.steps import create
from tuneloop.data.steps.redact import Redact
from tuneloop.errors import ConfigError

KEY = "TUNELOOP_PSEUDONYM_KEY"


def rows(*texts: str) -> Any:
    return make_frame(
        {"id": [f"r{i}" for i in range(len(texts))], "messages": [[{"role": "user", "content": t}] for t in texts]}
    )


def contents(frame: Any) -> list[str]:
    return [messages[0]["content"] for messages in frame["messages"]]


def test_pseudonyms_are_the_same_in_every_part_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "0123456789abcdef")
    step = create("redact", {"mask": "pseudonym"})
    one, two = (
        contents(step.apply(rows("电话13800138000")))[0],
        contents(step.apply(rows("x", "ring 138 0013 8000")))[1],
    )
    assert one.removeprefix("电话") == two.removeprefix("ring ") != "13800138000"


def test_with_pseudonyms_a_second_application_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "0123456789abcdef")
    step = create("redact", {"mask": "pseudonym"})
    once = step.apply(
        rows("电话13800138000", "a@b.example, SSN 078-05-1120", "call (212) 555-0123", "GB29NWBK60161331926819")
    )
    assert step.apply(once).equals(once, null_equal=True)


@pytest.mark.parametrize(("key", "what"), [(None, "needs a key"), ("short", "at least 16")])
def test_pseudonyms_need_a_key_before_the_run(monkeypatch: pytest.MonkeyPatch, key: str | None, what: str) -> None:
    monkeypatch.delenv(KEY, raising=False)
    if key:
        monkeypatch.setenv(KEY, key)
    with pytest.raises(ConfigError, match=what):
        Redact(mask="pseudonym").prepare()


def test_the_key_is_in_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "0123456789abcdef")
    step = Redact(mask="pseudonym")
    step.apply(rows("13800138000"))
    assert "0123456789abcdef" not in step.to_yaml() + repr(step) + repr(vars(step))


def test_spans_of_a_row_that_was_redacted_before_are_kept() -> None:
    first = Redact(types=("EMAIL",)).apply(rows("13800138000 a@b.example"))
    both = Redact().apply(first)
    assert both["redactions"].to_list() == [
        [
            {"message": 0, "type": "EMAIL", "start": 12, "end": 23},
            {"message": 0, "type": "PHONE", "start": 0, "end": 11},
        ]
    ]


@pytest.mark.parametrize(
    "text", ["ring ０７７００ ９００１２３", "邮箱ａ＠ｂ．ｅｘａｍｐｌｅ", "粤Ｂ１２３４５", "ip 8.8.4.40", "2001:db8::1", "?token=abcdefgh", "sk-" + "a1" * 20]
)  # fmt: skip
def test_the_quick_look_over_a_column_misses_nothing(text: str) -> None:
    assert contents(Redact().apply(rows(text))) != [text]


def test_names_need_a_model_and_say_so_when_the_project_file_is_read() -> None:
    with pytest.raises(ValueError, match="names_model"):
        DataConfig(sources="a.csv", steps=(StepConfig(name="redact", options={"types": ["NAME", "EMAIL"]}),))


def test_a_folder_without_a_model_is_refused_before_the_run(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="the extra names is not installed")
    with pytest.raises(ConfigError, match=r"meta\.json"):
        Redact(types=("NAME",), names_model=tmp_path).prepare()


@pytest.mark.skipif(not importlib.util.find_spec("presidio_analyzer"), reason="the extra names is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_names_of_a_local_model_are_replaced_beside_the_rest(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    model = spacy.blank("en")
    model.add_pipe("entity_ruler").add_patterns(
        [
            {"label": "PERSON", "pattern": "Ada Lovelace"},
            {"label": "GPE", "pattern": "London"},
            {"label": "ORG", "pattern": "Analytical Ltd"},
            {"label": "DATE", "pattern": "1843"},
        ]
    )
    model.to_disk(tmp_path)

    step = Redact(types=("NAME", "ORGANIZATION", "ADDRESS", "EMAIL"), names_model=tmp_path)
    step.prepare()
    after = step.apply(rows("Ada Lovelace of Analytical Ltd, London, 1843: ada@b.example", "nobody"))

    assert contents(after) == ["[NAME] of [ORGANIZATION], [ADDRESS], 1843: [EMAIL]", "nobody"]
    assert (
        contents(Redact(types=("ADDRESS",), names_model=tmp_path).apply(rows("Ada Lovelace, London")))[0]
        == "Ada Lovelace, [ADDRESS]"
    )


def test_of_overlapping_spans_the_certain_one_holds() -> None:
    from tuneloop.data.personal import Span

    certain, guess = Span("EMAIL", 4, 20), Span("NAME", 4, 7)
    assert names.add([certain], [guess, Span("NAME", 20, 22)]) == [certain, Span("NAME", 20, 22)]
