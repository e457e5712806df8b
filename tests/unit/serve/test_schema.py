from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.api_error import ApiError
from tuneloop.serve.schema import ChatRequest, CompletionRequest, GenerateRequest
from tuneloop.types import Message

ASK = {"messages": [{"role": "user", "content": "hi"}]}
HALF = "\ud800"
FORCED = {"type": "function", "function": {"name": "f"}}


def tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (ChatRequest, {"messages": [{"role": "user", "content": f"hi {HALF}"}]}, "messages"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]}, "messages"),
        (ChatRequest, ASK | {"tools": [tool({"properties": {HALF: {}}})]}, "tools"),
        (ChatRequest, ASK | {"stop": ["a", "\udfff"]}, "stop"),
        (CompletionRequest, {"prompt": ["a", HALF]}, "prompt"),
        (GenerateRequest, {"prompt": "hi", "system": HALF}, "system"),
    ],
)
def test_half_a_character_is_refused_by_name(kind: Any, body: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.errors()[0]["loc"] == (field,)
    assert "half a character" in caught.value.errors()[0]["msg"]


def test_whole_characters_beyond_16_bits_are_fine() -> None:
    assert GenerateRequest.model_validate_json('{"prompt": "\\ud83d\\ude00"}').prompt == "😀"


def test_a_null_means_not_given_whatever_its_name_and_a_misspelt_field_is_refused() -> None:
    said = {"role": "assistant", "content": "hi", "annotations": None, "audio": None, "refusal": None}
    body = {"messages": [said], "stream": None, "verbosity": None, "stream_options": {"include_obfuscation": None}}
    assert not ChatRequest.model_validate(body).stream
    for wrong in (ASK | {"verbosity": "low"}, {"messages": [said | {"annotations": []}]}):
        with pytest.raises(ValidationError, match="Extra inputs"):
            ChatRequest.model_validate(wrong)


def test_top_k_fits_into_an_engine() -> None:
    assert ChatRequest.model_validate(ASK | {"top_k": 2**31 - 1}).top_k == 2**31 - 1
    for wraps_around in (2**31, 2**32 + 1):
        with pytest.raises(ValidationError, match="top_k"):
            ChatRequest.model_validate(ASK | {"top_k": wraps_around})


@pytest.mark.parametrize(
    ("schema", "accepted"),
    [
        ({"type": "array", "maxItems": 20_000}, True),
        ({"type": "array", "minItems": 10**9}, False),
        ({"type": "array", "minItems": 10**400, "maxItems": 0.5}, False),
        ({"type": "number", "multipleOf": 999_983}, False),
        ({"type": "number", "multipleOf": 0.01}, True),
        ({"properties": {str(i): {"type": "array", "maxItems": 1000} for i in range(21)}}, False),
        ({"properties": {"maxItems": {"type": "string", "maxLength": 10**9}}}, True),
    ],
)
def test_what_an_answer_is_held_to_may_only_count_so_far(schema: dict[str, Any], accepted: bool) -> None:
    for body, param in (
        ({"response_format": schema_format(schema)}, "response_format"),
        ({"tools": [tool(schema)], "tool_choice": "required"}, "tools"),
        ({"tools": [tool(schema)], "tool_choice": FORCED}, "tools"),
    ):
        request = ChatRequest.model_validate(ASK | body)
        if accepted:
            request.asked()
        else:
            with pytest.raises(ApiError, match="add up to") as caught:
                request.asked()
            assert (caught.value.status_code, caught.value.param) == (400, param)


def test_a_tool_that_may_be_called_or_not_may_count_as_far_as_it_likes() -> None:
    ChatRequest.model_validate(ASK | {"tools": [tool({"type": "array", "minItems": 10**9})]}).asked()


def test_an_assistant_may_have_said_nothing() -> None:
    (_, said) = ChatRequest.model_validate({"messages": [*ASK["messages"], {"role": "assistant"}]}).asked().messages
    assert said == Message("assistant", "")


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [({"best_of": 1}, True), ({"n": 2, "best_of": 2}, True), ({"n": 2, "best_of": 1}, False), ({"best_of": 2}, False)],
)
def test_best_of_all_that_are_asked_for_is_accepted(fields: dict[str, int], accepted: bool) -> None:
    request = CompletionRequest.model_validate({"prompt": "hi"} | fields)
    if accepted:
        request.asked()
    else:
        with pytest.raises(ApiError, match="best_of"):
            request.asked()
