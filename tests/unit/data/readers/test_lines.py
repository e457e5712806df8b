"""JSON Lines, JSON arrays, plain text."""

from __future__ import annotations

import json

from tuneloop.data.readers.array import read_json
from tuneloop.data.readers.lines import looks_like_json_lines, read_json_lines, read_plain
from tuneloop.data.readers.stream import Decoding, TextStream
from tuneloop.data.readers.unpack import Memory


def text(whole: str) -> TextStream:
    return TextStream(Memory(whole.encode()), "rows", Decoding("utf-8"))


def test_broken_json_lines_become_rows_with_reasons() -> None:
    file = read_json_lines(text('{"a": 1}\n{"a": \n\n[1]\n{"a": 2, "b": 3}\n'), "rows.jsonl")

    assert [(r.line, r.problem) for r in file.head] == [
        (1, None),
        (2, ("read", "not JSON: Expecting value")),
        (4, ("read", "not an object: a JSON list stands here")),
        (5, None),
    ]
    assert file.columns == ("a", "b")
    assert file.facts["blank_lines"] == 1


def test_elements_of_an_array_know_their_line() -> None:
    rows = [{"q": "one"}, {"q": "two"}, {"q": "three"}]
    file = read_json(text(json.dumps(rows, indent=2)), "rows.json")

    # "[", then three lines for each object
    assert [(r.line, r.fields["q"]) for r in file.head] == [(2, "one"), (5, "two"), (8, "three")]


def test_elements_on_one_line_are_told_apart() -> None:
    file = read_json(text('[{"q":"x"},{"q":"x"}]'), "rows.json")
    assert [(r.line, r.nth) for r in file.head] == [(1, 1), (1, 2)]


def test_a_broken_element_of_an_indented_array_costs_one_row() -> None:
    whole = '[\n  {"q": "one", "turns": [{"q": 1}]},\n  {"q": "two", "turns": [{"q": }]},\n  {"q": "three"}\n]'
    file = read_json(text(whole), "rows.json")

    assert [(r.line, r.fields.get("q"), r.problem is None) for r in file.head] == [
        (2, "one", True),
        (3, None, False),
        (4, "three", True),
    ]


def test_a_broken_element_of_a_compact_array_costs_one_row() -> None:
    file = read_json(text('[{"q":"one"},{"q":tw},{"q":"three"}]'), "rows.json")
    assert [r.fields.get("q") for r in file.head] == ["one", None, "three"]
    assert file.head[1].raw == '{"q":tw},'


def test_an_array_that_was_cut_off_keeps_what_is_whole() -> None:
    file = read_json(text('[\n{"q": "one"},\n{"q": "tw'), "rows.json")
    assert [(r.line, r.problem is None) for r in file.head] == [(2, True), (3, False)]


def test_text_after_the_array_is_accounted_for() -> None:
    file = read_json(text('[{"q": "one"}]\nand more'), "rows.json")
    assert [(r.line, r.problem and r.problem[1]) for r in file.head] == [
        (1, None),
        (2, "not JSON: text after the end of the array"),
    ]


def test_what_is_space_elsewhere_is_not_space_in_json() -> None:
    file = read_json(text('[{"q": "one"},\x0b\x1c'), "rows.json")
    assert [(r.line, r.raw, r.problem is None) for r in file.rows] == [
        (1, '{"q": "one"}', True),
        (1, "\x0b\x1c", False),
    ]


def test_rows_wrapped_in_an_object_are_found() -> None:
    assert [r.fields["q"] for r in read_json(text('{"version": 1, "data": [{"q": "a"}, {"q": "b"}]}'), "x").head] == [
        "a",
        "b",
    ]
    assert [r.fields["q"] for r in read_json(text('{"11": {"q": "a"}, "12": {"q": "b"}}'), "x").head] == ["a", "b"]


def test_absurd_nesting_is_a_row_with_a_reason() -> None:
    file = read_json_lines(text("[" * 200_000 + "\n" + '{"a": 1}'), "rows.jsonl")
    assert [r.problem for r in file.head] == [("read", "not JSON: nested too deeply"), None]


def test_a_single_object_is_not_json_lines() -> None:
    assert looks_like_json_lines(text('{"a": 1}\n{"a": 2}'))
    assert not looks_like_json_lines(text('{"a": 1}'))
    assert not looks_like_json_lines(text('{\n"a": 1\n}'))


def test_plain_text_is_a_row_a_line() -> None:
    file = read_plain(text("one\n\ntwo\n"), "rows.txt")
    assert [(r.line, r.fields) for r in file.head] == [(1, {"text": "one"}), (3, {"text": "two"})]
