"""New rows from a model: what is asked, what is taken, what is refused and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.unit.data.makers.conftest import Make, rows, said
from tuneloop.data.config import MakerConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.makers import written
from tuneloop.data.makers.asking import Answer
from tuneloop.data.makers.examples import Example, Kind
from tuneloop.data.makers.synthesis import REJECTED_FILE
from tuneloop.errors import ConfigError
from tuneloop.types import record_id

SENTENCES = [
    "my parcel never showed up at the door",
    "the website rejects every password that I try",
    "two identical payments left my account",
    "somebody changed the address on my profile",
    "how long do refunds usually need",
    "nobody answers when I ring the branch",
]


class Model:
    """Answers each question with the next of the given texts, and keeps the questions."""

    def __init__(self, answers: Iterable[Any]) -> None:
        self._answers = iter(answers)
        self.asked: list[str] = []

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        self.asked += [conversation[-1]["content"] for conversation in conversations]
        answers = (next(self._answers) for _ in conversations)
        return [answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False) for answer in answers]


def texts(*sentences: str) -> list[dict[str, str]]:
    return [{"text": sentence} for sentence in sentences]


REAL = rows([f"a real question with the number {k}" for k in range(8)], ["fee"] * 8)


def rejected(tmp_path: Path) -> list[tuple[str, str]]:
    """Label and reason of each line of the file."""
    lines = (tmp_path / "c/synthesise" / REJECTED_FILE).read_text(encoding="utf-8").splitlines()
    return [(row["label"], row["reason"]) for row in map(json.loads, lines)]


def one(make: Make, answers: Sequence[Any], real: pl.DataFrame = REAL, **options: Any) -> tuple[pl.DataFrame, Model]:
    model = Model(answers)
    given = {"rows": 1, "rows_per_request": 1, "attempts": len(answers), "examples": 2, **options}
    return make("synthesise", given, real, ask=model), model


def test_rows_of_each_class_up_to_its_quota(make: Make, tmp_path: Path) -> None:
    real = pl.concat([REAL, rows([f"lost number {k}" for k in range(4)], ["lost"] * 4)])
    model = Model([texts(*SENTENCES[:3]), texts(*SENTENCES[3:])])
    new = make("synthesise", {"rows": {"lost": 2, "fee": 3}, "rows_per_request": 3}, real, ask=model)
    assert list(zip(new["label"], said(new), strict=True)) == [
        *(("fee", s) for s in SENTENCES[:3]),
        *(("lost", s) for s in SENTENCES[3:5]),
    ]
    assert rejected(tmp_path) == [("lost", "not needed: the class has its rows")]


def test_the_question_shows_class_examples_number_and_schema(make: Make) -> None:
    _, model = one(make, [texts(SENTENCES[0])])
    (question,) = model.asked
    assert "Write 1 new training examples of the class fee (the classes are: fee)" in question
    assert question.count('{"text": "a real question with the number') == 2
    assert '"required": ["text"]' in question


def test_parents_are_the_examples_that_were_shown(make: Make) -> None:
    new, model = one(make, [texts(SENTENCES[0])])
    by_id = dict(zip(REAL["id"], said(REAL), strict=True))
    assert {by_id[parent] for parent in new["parents"][0]} == {t for t in said(REAL) if f'"{t}"' in model.asked[0]}


def test_every_request_shows_other_examples(make: Make) -> None:
    _, model = one(make, ["no", "no", "no", "no"])
    assert len(set(model.asked)) > 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I would rather not.", "bad JSON: there is no JSON array or object"),
        ('[{"text": "cut off', "bad JSON: there is no JSON array or object"),
        ([], "bad JSON: there is no JSON array or object"),
        ([{"question": "x"}], "schema: row lacks 'text'"),
        ([{"text": "hello to all of you", "more": 1}], "schema: row has the unknown property 'more'"),
        (["hello"], "schema: row is not of type object"),
        (texts("short"), "too short: 5 characters"),
        (texts("A REAL question with the number 3!"), "duplicate: of a real row"),
        # 29 and 30 shingles of five characters, 28 of them in both: 28/31
        (texts("a real question with the number 99"), "near-duplicate: 0.90 similar to a real row"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(make: Make, tmp_path: Path, answer: Any, reason: str) -> None:
    new, _ = one(make, [answer, texts(SENTENCES[0])])
    assert said(new) == [SENTENCES[0]]
    assert rejected(tmp_path) == [("fee", reason)]


def test_new_rows_differ_from_each_other_exactly_and_nearly(make: Make, tmp_path: Path) -> None:
    first = SENTENCES[0]
    answers = [texts(first, first.upper(), first + " today"), texts(first, first + " now", SENTENCES[1], SENTENCES[2])]
    new, _ = one(make, answers, rows=3, rows_per_request=3)
    assert said(new) == [first, SENTENCES[1], SENTENCES[2]]
    reasons = [reason.partition(":")[0] for _, reason in rejected(tmp_path)]
    assert reasons == ["duplicate", "near-duplicate", "duplicate", "near-duplicate"]


@pytest.mark.parametrize("change", [str, lambda sentence: sentence + " now"], ids=["exact", "near"])
def test_a_row_that_is_held_out_is_no_training_row(make: Make, tmp_path: Path, change: Callable[[str], str]) -> None:
    model = Model([texts(change(SENTENCES[0]))])
    options = {"rows": 1, "rows_per_request": 1, "attempts": 1}
    assert make("synthesise", options, REAL, ask=model, held_out=[rows([SENTENCES[0]])]).height == 0
    assert rejected(tmp_path)[0][1].endswith("a real row")


def test_personal_data_is_masked_in_what_is_sent_and_in_what_comes_back(make: Make) -> None:
    real = rows(["please write to jane@bank.example about it"] * 1, ["fee"])
    new, model = one(make, [texts("my address is other.name@bank.example, thanks")], real)
    assert "jane@" not in model.asked[0]
    assert "write to [EMAIL]" in model.asked[0]
    assert said(new) == ["my address is [EMAIL], thanks"]
    assert "other.name" not in new["raw"][0]
    assert [span["type"] for span in new["redactions"].to_list()[0]] == ["EMAIL"]


def test_a_class_that_stays_short_is_told(
    make: Make, capsys: pytest.CaptureFixture[str], counts: dict[str, Any]
) -> None:
    new, _ = one(make, ["no"] * 2, rows=1)
    assert new.height == 0
    assert "0 of 1 rows of fee" in capsys.readouterr().err
    assert (counts["made"], counts["refused_bad_JSON"], counts["requests"]) == (0, 2, 2)


def pairs() -> pl.DataFrame:
    """Questions with answers, without classes."""
    conversations = [
        [
            {"role": "user", "content": f"question {k} of many"},
            {"role": "assistant", "content": f"answer {k}", "reasoning": "hm"},
        ]
        for k in range(5)
    ]
    return make_frame({"id": [record_id(str(k), "f") for k in range(5)], "messages": conversations, "source": [3] * 5})


def test_pairs_are_asked_for_where_rows_have_answers(make: Make) -> None:
    new, model = one(make, [[{"prompt": SENTENCES[0], "response": "we look into it"}]], pairs())
    assert '"response": "answer' in model.asked[0]
    assert [(t["role"], t["content"]) for t in new["messages"].to_list()[0]] == [
        ("user", SENTENCES[0]),
        ("assistant", "we look into it"),
    ]
    assert (new["label"][0], new["source"][0]) == (None, 3)


def test_own_schema_with_reasoning_and_fields(make: Make) -> None:
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"prompt": text, "response": text, "reasoning": text, "city": text}}
    row = {"prompt": SENTENCES[0], "response": "yes", "reasoning": "thinking", "city": "Oslo"}
    new, model = one(make, [[row]], pairs(), json_schema=schema)
    assert '"reasoning": "hm"' in model.asked[0]
    assert new["messages"].to_list()[0][1]["reasoning"] == "thinking"
    assert json.loads(new["fields"][0]) == {"city": "Oslo"}


def test_rows_with_tools_media_or_several_questions_are_no_examples(make: Make) -> None:
    user, answer = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}
    conversations = [[user, answer, user, answer], [{**user, "media": "[]"}, answer], [user, answer], [answer]]
    frame = make_frame(
        {
            "id": ["a", "b", "c", "d"],
            "messages": conversations,
            "tools": [None, None, "[]", None],
            "label": ["x"] * 4,
            "source": [0] * 4,
        }
    )
    with pytest.raises(ConfigError, match="no training row of class 'x' can be shown"):
        one(make, ["no"], frame, rows={"x": 1})


def test_an_unknown_class_is_named_with_the_nearest(make: Make) -> None:
    with pytest.raises(ConfigError, match="no training row of class 'fees'") as found:
        one(make, ["no"], rows={"fees": 1})
    assert found.value.hint == "did you mean 'fee'?"


def test_without_endpoint_and_model_it_says_so(make: Make) -> None:
    with pytest.raises(ConfigError, match="needs a model to ask"):
        make("synthesise", {}, REAL)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rows": 0}, "at least 1"),
        ({"rows": {}}, "at least 1"),
        ({"prompt": "give me {n} rows"}, "lacks {examples}, {schema}"),
        ({"json_schema": {"properties": {"question": {}}}}, "needs the property text"),
        ({"json_schema": {"oneOf": []}}, "not checked"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        MakerConfig(name="synthesise", options=options)


KIND = Kind("fee", True)
EXAMPLE = Example("id", 0, [], None)


def parsed(text: str) -> list[str]:
    good, _ = written.parse(Answer(text), KIND, [EXAMPLE], {"type": "object", "required": ["text"]})
    return [row.messages[0]["content"] or "" for row in good]


Wrap = Callable[[str], str]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda json_text: json_text,
        lambda json_text: f"```json\n{json_text}\n```",
        lambda json_text: f"Here you are [as asked]: {json_text} Anything else?",
        lambda json_text: f'<think>maybe [{{"text": "no"}}]</think>\n{json_text}',
    ],
    ids=["plain", "fence", "sentence", "thoughts"],
)
def test_json_is_found_in_its_wrapping(wrap: Wrap) -> None:
    assert parsed(wrap('[{"text": "one"}, {"text": "two"}]')) == ["one", "two"]


def test_one_object_is_one_row() -> None:
    assert parsed('{"text": "one"}') == ["one"]


def test_a_row_of_another_class_is_refused() -> None:
    _, bad = written.parse(Answer('[{"text": "x", "label": "lost"}]'), KIND, [EXAMPLE], {})
    assert [b.reason for b in bad] == ["schema: row.label is 'lost', asked for was 'fee'"]


def test_half_a_character_does_not_break_the_frame() -> None:
    assert parsed('[{"text": "a\\ud83d"}]') == ["a\ufffd"]


def test_what_the_endpoint_refused_is_counted_by_its_reason() -> None:
    _, bad = written.parse(Answer("", refused="HTTP 400 filter"), KIND, [EXAMPLE], {})
    assert Counter(b.reason for b in bad) == {"refused: HTTP 400 filter": 1}
