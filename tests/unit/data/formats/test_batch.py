"""A part of a file at once says what its rows say one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rows import found
from tuneloop.data.formats import Detected, Unusable, understand_all
from tuneloop.data.frame import SCHEMA, make_frame

spaces = st.sampled_from(
    ["", " ", "\n", "\x1c", "\u3000", "\xa0", "T", "a T b", "问题", "a\ud83d", "[a](b)*", " x\ty "]
)
cells = (
    spaces | st.none() | st.integers(0, 3) | st.floats(allow_nan=True) | st.lists(spaces, max_size=2) | st.booleans()
)
FLAT = {
    "pair": {"question": "Q", "answer": "A"},
    "pair with all": {"question": "Q", "answer": "A", "title": "T", "system": "S", "intent": "I"},
    "pair with context": {"context": "C", "question": "Q", "answers": ["A", "B"]},
    "alpaca": {"instruction": "Q", "input": "more", "output": "A", "system": "S"},
    "classification": {"text": "Q", "label": "A"},
    "text": {"text": "A", "title": "T"},
    "kept": {"text": "Q", "label": "A", "customer": 3},
}
NESTED = {
    "messages": {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    "kto": {"prompt": "Q", "completion": "A", "label": True},
    "history": {"instruction": "Q", "output": "A", "history": [["q", "a"]]},
    "annotation": {"text": "Q", "intent": "I", "entities": [{"type": "a", "value": "b"}]},
}


def one_by_one(rows: Sequence[dict[str, Any]], detected: Detected) -> pl.DataFrame:
    """The oracle: ``Detected.parse`` and the frame's own way to nest turns."""
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "messages", "label", "desirable", "tools", "fields")}
    problems: list[str | None] = []
    for row in rows:
        values: tuple[Any, ...] = ([], None, None, None, None)
        try:
            values, problem = tuple(detected.parse(row)), None
        except Unusable as error:
            problem = str(error)
        for column, value in zip(columns.values(), ("", *values), strict=True):
            column.append(value)
        problems.append(problem)
    return make_frame(columns).select(*list(columns)[1:], problem=pl.Series(problems, dtype=pl.String))


@pytest.mark.parametrize("name", FLAT)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_columns_of_text_are_understood_the_same_at_once(name: str, data: st.DataObject) -> None:
    detected = found(FLAT[name], keep_columns=("customer",))
    assert detected.flat is not None
    rows = data.draw(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(FLAT[name], cells)), max_size=6))
    assert understand_all(rows, detected).equals(one_by_one(rows, detected), null_equal=True)


@pytest.mark.parametrize("name", NESTED)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_other_rows_are_understood_the_same_at_once(name: str, data: st.DataObject) -> None:
    good = NESTED[name]
    detected = found(good)
    assert detected.flat is None
    damaged = st.fixed_dictionaries({}, optional=dict.fromkeys(good, cells))
    rows = data.draw(st.lists(st.just(good) | damaged, max_size=5))
    assert understand_all(rows, detected).equals(one_by_one(rows, detected), null_equal=True)


@pytest.mark.parametrize("good", [*FLAT.values(), *NESTED.values()])
def test_no_rows_give_no_rows_with_the_types_of_the_frame(good: dict[str, Any]) -> None:
    empty = understand_all([], found(good))
    assert dict(empty.schema) == {**{key: SCHEMA[key] for key in empty.columns[:-1]}, "problem": pl.String()}
    assert empty.height == 0
