from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.bodies import explain
from tuneloop.serve.schema import ChatRequest, CompletionRequest

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def format_of(**more: Any) -> dict[str, Any]:
    return ASK | {"response_format": {"type": "json_schema"} | more}


@pytest.mark.parametrize(
    ("kind", "body", "param", "message"),
    [
        (ChatRequest, format_of(json_schema={"name": "a"}), "response_format.json_schema.schema", "Field required"),
        (ChatRequest, format_of(), "response_format.json_schema", "Field required"),
        (ChatRequest, format_of(typo=1), "response_format.json_schema", "Field required"),
        (ChatRequest, ASK | {"response_format": 3}, "response_format", "Input should be an object"),
        (ChatRequest, ASK | {"tool_choice": "any"}, "tool_choice", "Input should be 'none', 'auto' or 'required'"),
        (ChatRequest, ASK | {"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name", "Field required"),
        (ChatRequest, {"messages": ["hi"]}, "messages.0", "Input should be an object"),
        (ChatRequest, ASK | {"logit_bias": {"1": "x"}}, "logit_bias.1", "Input should be a valid number"),
        (CompletionRequest, {"prompt": 3}, "prompt", "Input should be a valid string"),
        (CompletionRequest, {"prompt": [1, "a"]}, "prompt.1", "Input should be a valid integer"),
        (CompletionRequest, {}, "prompt", "Field required"),
        (ChatRequest, [], None, "Input should be an object"),
    ],
)  # fmt: skip
def test_an_error_names_what_the_client_wrote(kind: Any, body: Any, param: str | None, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    told = explain(caught.value.errors(), body)
    assert (told.param, told.message) == (param, f"{param or 'the body'}: {message}")


def test_a_field_is_not_taken_for_the_union_member_of_its_name() -> None:
    body = format_of(json_schema={"name": "a", "schema": {}}, strict=True)
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(body)
    assert explain(caught.value.errors(), body).param == "response_format.strict"
