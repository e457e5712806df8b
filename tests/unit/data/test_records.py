"""Frame rows as records, and as lines of JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tuneloop.data.frame import make_frame
from tuneloop.data.records import json_lines, records
from tuneloop.types import Message, Record, ToolCall

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "rejected"]), "content": TEXT},
    optional={
        "reasoning": st.none() | TEXT,
        "tool_calls": st.just('[{"name": "f", "arguments": "{}"}]'),
        "media": st.just('[{"kind": "image", "source": "a.png"}]'),
    },
)
ROW = st.fixed_dictionaries(
    {
        "messages": st.lists(TURN, max_size=4),
        "label": st.none() | TEXT,
        "origin": TEXT,
        "desirable": st.none() | st.booleans(),
        "tools": st.none() | st.just("[]"),
        "fields": st.none() | st.just('{"customer": "c7"}'),
        "parents": st.just([]) | st.just(["p"]),
    }
)


@given(st.lists(ROW, max_size=6), st.none() | st.just("one of {labels}"))
def test_lines_are_what_the_records_say(rows: list[dict[str, Any]], system: str | None) -> None:
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else {"messages": []})}
    frame = make_frame({"id": [f"r{i}" for i in range(len(rows))], **columns})
    slow = "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records(frame, system, ["x", "y"]))
    assert json_lines(frame, system, ["x", "y"]) == slow
    for line, record in zip(slow.split("\n"), records(frame, system, ["x", "y"]), strict=False):
        assert Record.from_json(json.loads(line)) == record


def test_a_preference_row_keeps_both_answers() -> None:
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "good", "tool_calls": '[{"name": "f", "arguments": "{}"}]'},
        {"role": "rejected", "content": "bad"},
    ]
    (record,) = records(make_frame({"id": ["a"], "messages": [turns], "origin": ["f:1"]}), None, [])
    assert record.messages == (Message("user", "q"), Message("assistant", "good", None, (ToolCall("f", "{}"),)))
    assert record.rejected == (Message("assistant", "bad"),)
