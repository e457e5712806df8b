from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tiny import STYLES, Style, tiny_tokenizer
from tuneloop.chat import Chat
from tuneloop.errors import DataError
from tuneloop.train import Rows, TrainConfig, tokenise
from tuneloop.types import Message, Record

USER, ANSWER = Message("user", "hi"), Message("assistant", "yes")


def rows_of(folder: Path, records: Sequence[Record], style: Style = "chatml", **config: object) -> Rows:
    lines = "".join(json.dumps(r.to_json()) + "\n" for r in records)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    return tokenise(Chat(tiny_tokenizer(style)), folder, "train", TrainConfig(**config))  # type: ignore[arg-type]


def talk(turns: int, words: int = 3) -> Record:
    said = [
        m for i in range(turns) for m in (Message("user", f"q{i} " * words), Message("assistant", f"a{i} " * words))
    ]
    return Record("talk", (Message("system", "be kind"), *said), origin="talk.jsonl:1")


def test_a_row_that_cannot_be_learned_is_counted_and_does_not_stop_the_training(tmp_path: Path) -> None:
    rows = [
        Record("good", (USER, ANSWER)),
        Record("mute", (USER,)),
        Record("blank", (USER, Message("assistant", " "))),
        Record("long", (Message("user", "hi " * 300), ANSWER)),
    ]
    found = rows_of(tmp_path, rows, max_length_tokens=100)
    assert [e.id for e in found.examples] == ["good"]
    assert found.left_out == {
        "no assistant message to learn from": 1,
        "assistant message 1 is empty": 1,
        "longer than 100 tokens": 1,
    }


def test_rows_in_are_rows_trained_and_rows_left_out(tmp_path: Path) -> None:
    half = Record("half", (USER, Message("assistant", ""), USER, ANSWER))
    found = rows_of(tmp_path, [talk(4), half, Record("mute", (USER,))], max_length_tokens=80, too_long="split")
    assert found.rows_in == 3 == found.rows + sum(found.left_out.values())
    assert found.parts_left_out == {"assistant message 1 is empty": 1}
    assert len(found.examples) > found.rows == 2


def test_fail_names_the_rows_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 rows of train are longer than 20 tokens .*: talk\nhint: raise it"):
        rows_of(tmp_path, [talk(2)], max_length_tokens=20, too_long="fail")


@pytest.mark.parametrize(
    ("record", "config", "hint"),
    [
        (
            talk(1),
            {"source_weights": {"*": 0}},
            "raise train.source_weights or the weights in train.weight_column, or see",
        ),
        (talk(9), {"max_length_tokens": 20}, "raise train.max_length_tokens, or see"),
        (Record("mute", (USER,)), {}, "see"),
    ],
)
def test_the_hint_for_nothing_to_train_on_is_for_its_reason(
    tmp_path: Path, record: Record, config: dict[str, object], hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path, [record], **config).require(tmp_path)
    assert caught.value.hint == f"{hint} report.html there"


def test_nothing_to_train_on_is_an_error_with_reasons(tmp_path: Path) -> None:
    found = rows_of(tmp_path, [Record("mute", (USER,))])
    with pytest.raises(DataError, match=r"nothing to train on \(1 rows: no assistant message to learn from\)"):
        found.require(tmp_path)


@pytest.mark.parametrize("style", STYLES)
def test_parts_of_a_split_conversation_keep_the_system_prompt_and_every_answer_with_its_end(
    tmp_path: Path, style: Style
) -> None:
    record, chat = talk(6), Chat(tiny_tokenizer(style))
    found = rows_of(tmp_path, [record], style, max_length_tokens=130, too_long="split")
    assert len(found.examples) > 1
    assert all(len(e.input_ids) <= 130 for e in found.examples)
    learned = [[t for t, m in zip(e.input_ids, e.loss_mask, strict=True) if m] for e in found.examples]
    prompt = chat.render(record.messages[:2], generation=True)
    answers = [chat.answer_ids(m, prompt) for m in record.messages if m.role == "assistant"]
    assert [t for part in learned for t in part] == [t for answer in answers for t in answer]
    shown = [chat.tokenizer.decode(e.input_ids) for e in found.examples]
    assert all("be kind" in text for text in shown)


def test_a_part_takes_as_many_exchanges_as_fit(tmp_path: Path) -> None:
    whole = max(rows_of(tmp_path, [talk(2)]).lengths_tokens)
    found = rows_of(tmp_path, [talk(4)], max_length_tokens=whole, too_long="split")
    assert [e.id for e in found.examples] == ["talk#1", "talk#2"]


def test_a_call_and_its_result_are_not_parted(tmp_path: Path) -> None:
    called = (Message("user", "q " * 9), Message("assistant", "calling"), Message("tool", "42"), ANSWER)
    one = max(rows_of(tmp_path, [Record("r", called)]).lengths_tokens)
    found = rows_of(tmp_path, [Record("r", (*called, *called))], max_length_tokens=one, too_long="split")
    assert [e.id for e in found.examples] == ["r#1", "r#2"]
    text = Chat(tiny_tokenizer()).tokenizer.decode(found.examples[1].input_ids)
    assert text.index("calling") < text.index("42") < text.index("yes")


def test_an_exchange_that_cannot_be_split_is_lost_and_counted(tmp_path: Path) -> None:
    long = (Message("user", "hi " * 200), ANSWER)
    found = rows_of(
        tmp_path, [Record("r", (USER, ANSWER, *long, USER, ANSWER))], max_length_tokens=60, too_long="split"
    )
    assert [e.id for e in found.examples] == ["r#1", "r#3"]
    assert found.parts_left_out == {"longer than 60 tokens": 1}


# weights


def test_a_rows_weight_is_its_column_times_its_source(tmp_path: Path) -> None:
    records = [
        Record("a", (USER, ANSWER), origin="x/faq_en.csv:3", fields={"trust": "0.5"}),
        Record("b", (USER, ANSWER), origin="x/faq_en.csv:4", fields={"trust": 2}),
        Record("c", (USER, ANSWER), origin="chat.db:orders:7", fields={"trust": None}),
        Record("d", (USER, ANSWER), origin="other.csv:7", fields={"trust": 3}),
    ]
    weights = {"faq*.csv": 4.0, "x/faq_en.csv": 10.0, "chat.db": 2.0}
    found = rows_of(tmp_path, records, weight_column="trust", source_weights=weights)
    assert {e.id: e.weight for e in found.examples} == {"a": 5.0, "b": 20.0, "c": 2.0, "d": 3.0}


def test_a_weighed_source_is_counted_and_an_unmatched_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [Record(str(i), (USER, ANSWER), origin=f"faq.csv:{i}") for i in range(3)]
    rows_of(tmp_path, records, source_weights={"faq.csv": 2, "fqa*.csv": 3})
    said = capsys.readouterr().err
    assert "train: 3 rows of 'faq.csv' weigh 2" in said
    assert "warning: train.source_weights: 'fqa*.csv' matches no training row; sources are: faq.csv" in said


def test_a_row_of_weight_zero_is_left_out(tmp_path: Path) -> None:
    records = [Record(str(i), (USER, ANSWER), fields={"w": i}) for i in range(3)]
    found = rows_of(tmp_path, records, weight_column="w")
    assert [e.id for e in found.examples] == ["1", "2"]
    assert found.left_out == {"its weight is 0": 1}


@pytest.mark.parametrize("value", ["much", -1, float("inf"), True])
def test_a_weight_that_is_no_number_from_zero_up_is_an_error(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match="the weight of a row is"):
        rows_of(tmp_path, [Record("a", (USER, ANSWER), fields={"w": value})], weight_column="w")


def test_a_weight_column_that_no_row_has_is_an_error_that_says_how_to_keep_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hint: records keep it with data.keep_columns: \[w\]"):
        rows_of(tmp_path, [Record("a", (USER, ANSWER))], weight_column="w")


# continued pretraining


def text(words: str, name: str = "doc") -> Record:
    return Record(name, (Message("assistant", words),))


@pytest.mark.parametrize("style", STYLES)
def test_a_text_has_one_beginning_and_one_end_as_its_tokenizer_has_them(tmp_path: Path, style: Style) -> None:
    tokenizer = tiny_tokenizer(style)
    (example,) = rows_of(tmp_path, [text("The answer is 42.")], style, objective="pretrain").examples
    implied = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    plain = tuple(tokenizer("The answer is 42.", add_special_tokens=False)["input_ids"])
    start = (tokenizer.bos_token_id,) if implied else ()
    assert example.input_ids == (*start, *plain, tokenizer.eos_token_id)
    assert example.loss_mask == (False, *(True,) * (len(example.input_ids) - 1))


@pytest.mark.parametrize("style", STYLES)
def test_control_words_inside_a_text_stay_text(tmp_path: Path, style: Style) -> None:
    tokenizer = tiny_tokenizer(style)
    words = f"{tokenizer.bos_token or ''}{tokenizer.eos_token} ends it"
    (example,) = rows_of(tmp_path, [text(words)], style, objective="pretrain").examples
    assert example.input_ids.count(tokenizer.eos_token_id) == 1
    assert example.input_ids[1:].count(tokenizer.bos_token_id) == 0 or style == "smollm"
    assert tokenizer.decode(example.input_ids[:-1]).endswith(words)


@pytest.mark.parametrize("limit", [8, 9, 31, 64])
def test_the_parts_of_a_long_text_joined_are_the_text(tmp_path: Path, limit: int) -> None:
    record = text("Why was I charged twice for the same transfer? 我的银行卡丢了。 " * 5)
    (whole,) = rows_of(tmp_path, [record], objective="pretrain").examples
    found = rows_of(tmp_path, [record], objective="pretrain", max_length_tokens=limit)
    parts = [e.input_ids for e in found.examples]
    assert tuple(t for part in parts for t in part) == whole.input_ids
    assert all(2 <= len(part) <= limit for part in parts)
    assert found.examples[-1].loss_mask[-1], "the end-of-text token is learned"
    assert sum(e.label_tokens for e in found.examples) == len(whole.input_ids) - len(parts)


def test_a_conversation_is_learned_whole(tmp_path: Path) -> None:
    (learned,) = rows_of(tmp_path, [talk(2)], objective="pretrain").examples
    (answers,) = rows_of(tmp_path, [talk(2)]).examples
    assert learned.input_ids == answers.input_ids
    assert learned.label_tokens == len(learned.input_ids) - 1


def test_an_empty_text_is_left_out_with_its_reason(tmp_path: Path) -> None:
    assert rows_of(tmp_path, [text("  ")], objective="pretrain").left_out == {"the text is empty": 1}


def test_a_long_text_can_be_dropped_when_asked_for(tmp_path: Path) -> None:
    found = rows_of(tmp_path, [text("word " * 99)], objective="pretrain", max_length_tokens=8, too_long="drop")
    assert found.left_out == {"longer than 8 tokens": 1}


def without_end(folder: Path, *texts: str) -> Rows:
    """Texts whose tokenizer puts nothing before or after them: one of a single token has nothing to predict."""
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.eos_token = None
    records = [text(words, str(i)) for i, words in enumerate(texts)]
    (folder / "train.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in records), encoding="utf-8")
    return tokenise(Chat(tokenizer), folder, "train", TrainConfig(objective="pretrain"))


def test_a_row_without_a_label_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = without_end(tmp_path, "a", "a longer text")
    assert [e.id for e in found.examples] == ["1"]
    assert found.left_out == {"no token to learn": 1}
    assert "warning: 1 examples of train have no token to learn and are left out" in capsys.readouterr().err


def test_only_rows_without_a_label_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to train on \(2 rows: no token to learn\)"):
        without_end(tmp_path, "a", "b").require(tmp_path)
