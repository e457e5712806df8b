"""What no change of wording may touch, and what moves with it."""

from __future__ import annotations

import pytest

from tuneloop.data.makers.edits import Edit, apply, moved
from tuneloop.data.makers.entities import Entity, entities, exchanged, shifted
from tuneloop.data.makers.protect import fixed_pieces, protected


def free(text: str, *values: str) -> str:
    return "".join(c for c, flag in zip(text, protected(text, values), strict=True) if not flag)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("run `rm -rf x` now", "run  now"),
        ("so:\n```\nfor a in b\n```\nright", "so:\n\nright"),
        ("an open fence ```for a in b", "an open fence "),
        ("list:\n    indented code\nend", "list:\n\nend"),
        ("see https://example.org/a-b?c=d now", "see  now"),
        ("看https://example.org/a。然后", "看。然后"),
        ("mail me@example.org or [EMAIL]", "mail  or "),
        ("room B12 and 3.5 kg of x2", "room  and  kg of "),
        ("共三百元，第二天", "共元，第天"),
        ("Hello {name}, <b>all</b> of $x^y$", "Hello , all of "),
    ],
)
def test_code_addresses_numbers_and_tags_are_protected(text: str, left: str) -> None:
    assert free(text) == left


def test_every_occurrence_of_an_entity_value_is_protected() -> None:
    assert free("from Berlin (Berlin)", "Berlin") == "from  ()"


def test_fixed_pieces_are_what_a_translation_must_repeat() -> None:
    assert fixed_pieces("call [PHONE] in 3 days, 三天") == ["[PHONE]", "3"]


def test_edits_are_applied_in_place_and_positions_move() -> None:
    edits = [Edit(0, 1, "AA"), Edit(3, 5, "")]
    assert apply("abcdef", edits) == "AAbcf"
    assert moved(5, edits) == 4
    assert "AAbcf"[moved(2, edits)] == "abcdef"[2]


def test_both_shapes_of_entities_are_read() -> None:
    expected = [Entity("city", "Berlin"), Entity("city", "Paris")]
    assert list(entities({"entities": {"city": ["Berlin", "Paris"], "n": 3}})) == expected
    as_list = [{"type": "city", "value": "Berlin"}, {"type": "city", "value": "Paris", "start": 1}, "x"]
    assert list(entities({"entities": as_list})) == expected
    assert list(entities({})) == []


def test_values_are_exchanged_in_both_shapes() -> None:
    upper = str.upper
    assert exchanged({"entities": {"c": "a", "d": ["b", 1]}, "z": "z"}, upper) == {
        "entities": {"c": "A", "d": ["B", 1]},
        "z": "z",
    }
    assert exchanged({"entities": [{"value": "a"}, "b"]}, upper) == {"entities": [{"value": "A"}, "b"]}


def test_offsets_follow_the_edits() -> None:
    text = "fly from Rome to Oslo"
    edits = [Edit(0, 3, "travel"), Edit(9, 13, "Berlin")]
    fields = {"entities": [{"value": "Berlin", "start": 9, "end": 13}, {"value": "Oslo", "start": 17, "end": 21}]}
    new = apply(text, edits)
    for entity in shifted(fields, edits)["entities"]:
        assert new[entity["start"] : entity["end"]] == entity["value"]
