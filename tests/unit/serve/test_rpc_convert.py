"""Protobuf messages and the HTTP bodies they stand for."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("grpc", reason="pip install 'tuneloop[grpc]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from google.protobuf.json_format import ParseError

from tuneloop.serve.api_error import ApiError
from tuneloop.serve.rpc import tuneloop_pb2 as pb
from tuneloop.serve.rpc.convert import to_body, to_message


def test_only_what_is_set_is_in_the_body_also_when_it_is_zero() -> None:
    assert to_body(pb.ChatRequest()) == {}
    assert to_body(pb.ChatRequest(temperature=0.0, n=0, user="")) == {"temperature": 0.0, "n": 0, "user": ""}


def test_every_kind_of_field_becomes_what_json_would_hold() -> None:
    call = pb.ToolCall(id="c1", type="function", function=pb.FunctionCall(name="block", arguments='{"card": 1}'))
    message = pb.ChatRequest(
        messages=[pb.Message(role="assistant", tool_calls=[call]), pb.Message(role="tool", content="ok", tool_call_id="c1")],
        stop=["a", "b"],
        logit_bias={"7": -1.5},
        tools_json='[{"type": "function"}]',
        tool_choice_json='"auto"',
        seed=2**62,
    )  # fmt: skip
    assert to_body(message) == {
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "block", "arguments": '{"card": 1}'}}]},
            {"role": "tool", "content": "ok", "tool_call_id": "c1"},
        ],
        "stop": ["a", "b"],
        "logit_bias": {"7": -1.5},
        "tools": [{"type": "function"}],
        "tool_choice": "auto",
        "seed": 2**62,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_what_should_be_json_and_is_not_is_refused_by_name(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        to_body(pb.ChatRequest(response_format_json=text))
    assert (caught.value.status_code, caught.value.param) == (400, "response_format")


def test_what_the_proto_holds_as_json_text_is_written_so() -> None:
    found = {"pii": {"filtered": True, "detected": ["手机号"]}}
    body = {"choices": [{"index": 0, "finish_reason": None, "content_filter_results": found}]}
    message = to_message(pb.ChatChunk, body)
    assert json.loads(message.choices[0].content_filter_results_json) == found
    assert not message.choices[0].HasField("finish_reason")


def test_a_field_that_the_proto_lacks_is_never_dropped_in_silence() -> None:
    with pytest.raises(ParseError, match="brand_new"):
        to_message(pb.ChatResponse, {"brand_new": 1})
