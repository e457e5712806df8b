"""The JSON Schema check, against the reference implementation."""

from __future__ import annotations

from typing import Any

import pytest

from tuneloop.data.makers.schema import check_schema, problem

ROW = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]"},
        "n": {"type": "integer", "minimum": 1, "maximum": 3},
        "kind": {"enum": ["a", 1, None]},
        "fixed": {"const": "c"},
        "list": {"type": "array", "items": {"type": ["string", "null"]}, "minItems": 1, "maxItems": 2},
        "open": {"type": "object", "additionalProperties": {"type": "boolean"}},
    },
    "required": ["text"],
    "additionalProperties": False,
}
VALUES: list[Any] = [
    {"text": "ab"},
    {},
    [],
    "ab",
    {"text": "a"},
    {"text": "abcdef"},
    {"text": "1b"},
    {"text": 3},
    {"text": "ab", "n": 2},
    {"text": "ab", "n": 2.0},
    {"text": "ab", "n": 2.5},
    {"text": "ab", "n": True},
    {"text": "ab", "n": 0},
    {"text": "ab", "n": 4},
    {"text": "ab", "kind": None},
    {"text": "ab", "kind": "b"},
    {"text": "ab", "fixed": "d"},
    {"text": "ab", "list": ["x", None]},
    {"text": "ab", "list": []},
    {"text": "ab", "list": [1]},
    {"text": "ab", "list": ["x", "y", "z"]},
    {"text": "ab", "open": {"x": True}},
    {"text": "ab", "open": {"x": 1}},
    {"text": "ab", "other": 1},
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_it_agrees_with_the_reference_implementation(value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    valid = jsonschema.Draft202012Validator(ROW).is_valid(value)
    assert (problem(value, ROW) is None) == valid


def test_a_problem_names_the_place() -> None:
    assert problem({"text": "ab", "list": ["x", 1]}, ROW) == "row.list[1] is not of type ['string', 'null']"


def test_keywords_that_are_not_checked_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text: the keyword 'format' is not checked"):
        check_schema({"type": "object", "properties": {"text": {"type": "string", "format": "date"}}})


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "text"}, "unknown type 'text'"),
        ({"pattern": "("}, "pattern"),
        ({"items": {"oneOf": []}}, "oneOf"),
        ({"properties": {"a": True}}, "not a schema"),
    ],
)
def test_broken_schemas_are_refused(schema: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        check_schema(schema)


def test_remarks_are_allowed() -> None:
    check_schema({"title": "row", "description": "a row", **ROW})
