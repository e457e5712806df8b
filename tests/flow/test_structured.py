"""JSON schemas and tools through the gateway, with the official client, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from tuneloop.chat import Chat
from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import Bundle, load_tokenizer, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.types import Request

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
openai = pytest.importorskip("openai", reason="pip install 'tuneloop[dev]'")
pytest.importorskip("llguidance", reason="pip install 'tuneloop[structured]'")
pytest.importorskip("jsonschema", reason="pip install 'tuneloop[structured]'")

from tuneloop.serve.check import running  # noqa: E402

ASK = [{"role": "user", "content": "weather in 北京 and 上海?"}]
SAID = (
    'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京 </tool_call>"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "weather", "arguments": {"city": "上海"}}\n</tool_call>'
)
ONLY = '<tool_call>\n{"name": "weather", "arguments": {"city": 5}}\n</tool_call>'
BROKEN = "<tool_call>\nno JSON\n</tool_call> and text"


class Weather(BaseModel):
    """Weather of a city."""

    city: str


class Place(BaseModel):
    city: Literal["北京", "上海"]
    zip: int = Field(ge=1, le=9)


class Answer(BaseModel):
    place: Place
    sure: bool


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": Weather.model_json_schema()},
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time"}}


class Site:
    def __init__(self, url: str, key: str) -> None:
        self.url, self.headers = url, {"Authorization": f"Bearer {key}"}
        self.client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def create(self, **more: Any) -> Any:
        return self.client.chat.completions.create(**{"model": "bank", "messages": ASK, **more})

    def post(self, body: dict[str, Any]) -> Any:
        body = {"messages": ASK} | body
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=60)


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


def serving(bundle: Bundle, engine: EngineConfig) -> Any:
    return running(ServeConfig(engine=engine, model_name="bank"), bundle)


def saying(bundle: Bundle, text: str) -> EngineConfig:
    ids = tuple(load_tokenizer(bundle)(text, add_special_tokens=False)["input_ids"])
    return EngineConfig(name="fake", fake=FakeConfig(answer_ids=ids))


@pytest.fixture(scope="module")
def fake(bundle: Bundle) -> Iterator[Site]:
    with serving(bundle, EngineConfig(name="fake")) as (_, url, key):
        yield Site(url, key)


@pytest.fixture(scope="module")
def caller(bundle: Bundle) -> Iterator[Site]:
    with serving(bundle, saying(bundle, SAID)) as (_, url, key):
        yield Site(url, key)


@pytest.fixture(scope="module")
def real(bundle: Bundle) -> Iterator[Site]:
    """A tiny random model: whatever is right in its answers, the grammar did it."""
    with serving(bundle, EngineConfig(name="transformers", max_running=4, threads=1)) as (_, url, key):
        yield Site(url, key)


def test_the_clients_parse_gives_the_pydantic_object(real: Site) -> None:
    for seed in range(3):
        reply = real.client.chat.completions.parse(
            model="bank", messages=ASK, response_format=Answer, temperature=1.5, seed=seed, max_tokens=200
        )
        assert reply.choices[0].finish_reason == "stop"
        assert isinstance(reply.choices[0].message.parsed, Answer)


def test_a_streamed_answer_keeps_to_its_schema(real: Site) -> None:
    with real.client.chat.completions.stream(
        model="bank", messages=ASK, response_format=Answer, max_tokens=200
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Answer)


def test_a_json_object_is_an_object(fake: Site) -> None:
    reply = fake.create(response_format={"type": "json_object"})
    assert json.loads(reply.choices[0].message.content) == {}


def test_a_model_that_would_reason_first_answers_at_once_under_a_schema(tiny: Callable[..., Path]) -> None:
    """DeepSeek-R1's prompt ends inside its reasoning: the JSON must not be taken for a part of it."""
    with serving(open_bundle(tiny("llama", "r1-distill")), EngineConfig(name="fake")) as (_, url, key):
        site = Site(url, key)
        message = site.create(response_format={"type": "json_object"}).choices[0].message
        called = site.create(tools=[TIME], tool_choice="required").choices[0].message
    assert (message.content, getattr(message, "reasoning_content", None)) == ("{}", None)
    assert [c.function.name for c in called.tool_calls] == ["time"]


def test_a_required_call_is_one_of_the_functions_with_valid_arguments(real: Site) -> None:
    tools = [openai.pydantic_function_tool(Place), TIME]
    reply = real.client.chat.completions.parse(
        model="bank", messages=ASK, tools=[tools[0]], tool_choice="required", max_tokens=200
    )
    choice = reply.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert isinstance(call.function.parsed_arguments, Place)
    names = set()
    for seed in range(6):
        reply = real.create(tools=[WEATHER, tools[0]], tool_choice="required", temperature=2, seed=seed, max_tokens=300)
        for call in reply.choices[0].message.tool_calls or []:
            names.add(call.function.name)
    assert names <= {"weather", "Place"}
    assert names


def test_a_named_function_is_the_one_that_is_called(fake: Site) -> None:
    choice = {"type": "function", "function": {"name": "time"}}
    reply = fake.create(tools=[WEATHER, TIME], tool_choice=choice)
    assert [c.function.name for c in reply.choices[0].message.tool_calls] == ["time"]
    assert json.loads(reply.choices[0].message.tool_calls[0].function.arguments) == {}


def test_a_forced_function_without_parameters_is_called_without_arguments(real: Site) -> None:
    for choice in real.create(tools=[TIME], tool_choice="required", temperature=2, n=8, max_tokens=80).choices:
        assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [("time", "{}")]
        assert choice.finish_reason == "tool_calls"


def test_several_calls_come_parsed_beside_the_content(caller: Site) -> None:
    message = caller.create(tools=[WEATHER]).choices[0].message
    assert message.content == "I look."
    assert [json.loads(c.function.arguments)["city"] for c in message.tool_calls] == ["北京 </tool_call>", "上海"]
    assert len({c.id for c in message.tool_calls}) == 2


def test_streamed_calls_are_the_whole_ones_and_no_marker_is_seen(caller: Site) -> None:
    chunks = list(caller.create(tools=[WEATHER], stream=True))
    deltas = [c.choices[0].delta for c in chunks]
    assert "".join(d.content or "" for d in deltas) == "I look."
    calls = [call for d in deltas for call in d.tool_calls or []]
    assert [(c.index, c.type, c.function.name) for c in calls] == [
        (0, "function", "weather"),
        (1, "function", "weather"),
    ]
    assert json.loads(calls[1].function.arguments) == {"city": "上海"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_clients_stream_helper_collects_the_calls(caller: Site) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    with caller.client.chat.completions.stream(model="bank", messages=ASK, tools=[tool]) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [c.function.parsed_arguments for c in calls] == [Weather(city="北京 </tool_call>"), Weather(city="上海")]


def test_without_parallel_calls_there_is_one(caller: Site) -> None:
    message = caller.create(tools=[WEATHER], parallel_tool_calls=False).choices[0].message
    assert [json.loads(c.function.arguments)["city"] for c in message.tool_calls] == ["北京 </tool_call>"]


def test_an_answer_that_is_cut_inside_a_call_says_length(caller: Site) -> None:
    whole = caller.create(tools=[WEATHER]).usage.completion_tokens
    choice = caller.create(tools=[WEATHER], max_tokens=whole - 3).choices[0]
    assert choice.finish_reason == "length"
    assert len(choice.message.tool_calls) == 1
    assert "上海" in choice.message.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cut", "finish"), [({"max_tokens": 3}, "length"), ({"max_tokens": 25}, "length"), ({"stop": ["time"]}, "stop")]
)
def test_a_forced_call_that_is_cut_never_shows_its_markup(
    fake: Site, cut: dict[str, Any], finish: str, stream: bool
) -> None:
    choice = {"type": "function", "function": {"name": "time"}}
    reply = fake.create(tools=[TIME], tool_choice=choice, stream=stream, **cut)
    choices = [chunk.choices[0] for chunk in (reply if stream else [reply])]
    said = [c.delta if stream else c.message for c in choices]
    assert "".join(s.content or "" for s in said) == ""
    ((name, arguments),) = ((c.function.name, c.function.arguments) for s in said for c in s.tool_calls or [])
    assert name == "time"
    assert "{}".startswith(arguments)
    assert choices[-1].finish_reason == finish


def test_with_no_tools_or_choice_none_the_text_stays_text(caller: Site) -> None:
    for more in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        choice = caller.create(**more).choices[0]
        assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (SAID, None, "stop")


def test_what_is_no_call_stays_content(bundle: Bundle) -> None:
    with serving(bundle, saying(bundle, BROKEN)) as (_, url, key):
        choice = Site(url, key).create(tools=[WEATHER]).choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (BROKEN, None, "stop")


def test_arguments_that_break_a_strict_schema_are_no_call(bundle: Bundle) -> None:
    strict = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
    with serving(bundle, saying(bundle, ONLY)) as (_, url, key):
        site = Site(url, key)
        loose = site.create(tools=[WEATHER]).choices[0].message
        kept = site.create(tools=[strict]).choices[0].message
    assert (loose.content, len(loose.tool_calls)) == (None, 1)
    assert (kept.content, kept.tool_calls) == (ONLY, None)


def test_a_conversation_goes_on_with_the_clients_own_message_and_results_in_any_order(
    caller: Site, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = caller.create(tools=[WEATHER]).choices[0].message
    first, second = message.tool_calls
    results = [
        {"role": "tool", "tool_call_id": second.id, "content": "20 °C"},
        {"role": "tool", "tool_call_id": first.id, "content": "5 °C", "name": "weather"},
    ]
    asked: list[Request] = []
    with serving(bundle, EngineConfig(name="fake")) as (gateway, url, key):
        submit = gateway.process.submit
        monkeypatch.setattr(gateway.process, "submit", lambda r: (asked.append(r), submit(r)))
        said = message.model_dump()  # with a null for every field that the client knows
        assert "annotations" in said
        Site(url, key).create(messages=[*ASK, said, *results], tools=[WEATHER])
        prompt = gateway.chat.tokenizer.decode(asked[0].prompt_ids)
    assert prompt.index("5 °C") < prompt.index("20 °C")
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "上海"}}\n</tool_call>' in prompt
    assert '"description": "of a city"' in prompt


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, "response_format"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [TIME, TIME]}, "tools"),
        ({"tools": [TIME] * 129}, "tools"),
        ({"tools": [TIME], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "t", "strict": True, "parameters": {"pattern": "a"}}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": "any"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [*ASK, CALLED]}, "messages.1"),
        ({"messages": [*ASK, CALLED, *ASK]}, "messages.2"),
        ({"messages": [*ASK, {"role": "tool", "content": "x", "tool_call_id": "c1"}]}, "messages.1.tool_call_id"),
        ({"messages": [*ASK, CALLED, {"role": "tool", "content": "x", "tool_call_id": "c2"}]}, "messages.2.tool_call_id"),
        ({"messages": [*ASK, CALLED, {"role": "tool", "content": "x", "tool_call_id": "c1", "name": "y"}]}, "messages.2.name"),
        ({"messages": [*ASK, CALLED | {"tool_calls": [CALL, CALL]}]}, "messages.1.tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages.0.tool_calls"),
        ({"logit_bias": {"1000000": 1}}, "logit_bias"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_refused_by_name(fake: Site, change: dict[str, Any], param: str) -> None:
    reply = fake.post(change)
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"] or "").startswith(param), reply.text


def deep(levels: int) -> dict[str, Any]:
    return {"items": deep(levels - 1)} if levels else {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": []},
        {"type": "nonsense"},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"not": {"type": "string"}},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "array", "uniqueItems": True},
        {"type": "string", "pattern": "(?=a)"},
        {"x-guidance": {}},
        {"enum": ["x" * 70_000]},
    ],
    ids=lambda schema: str(schema)[:40],
)
def test_a_schema_that_cannot_be_kept_is_a_400_and_the_engine_lives_on(real: Site, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    reply = real.post({"response_format": wanted, "max_tokens": 8})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "response_format"), reply.text
    assert real.post({"max_tokens": 2}).status_code == 200


def test_a_function_whose_arguments_cannot_begin_is_a_400(real: Site) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}
    reply = real.post({"tools": [tool], "tool_choice": "required", "max_tokens": 20})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools"), reply.text


def test_a_schema_that_is_too_deep_is_a_400_at_the_door(real: Site) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": deep(40)}}
    reply = real.post({"response_format": wanted, "max_tokens": 8})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


def test_a_schema_that_only_the_engine_refuses_is_a_400_too(fake: Site) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "string", "pattern": "a"}}}
    for stream in (False, True):
        reply = fake.post({"response_format": wanted, "stream": stream})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format"), reply.text


def test_penalties_and_biases_reach_the_engine(real: Site, bundle: Bundle) -> None:
    token = Chat(load_tokenizer(bundle)).tokenizer.convert_tokens_to_ids("Ġcard")
    reply = real.create(max_tokens=3, logit_bias={str(token): 100})
    assert reply.choices[0].message.content == " card" * 3
    repeated = real.create(max_tokens=30).choices[0].message.content
    assert real.create(max_tokens=30, presence_penalty=2, frequency_penalty=2).choices[0].message.content != repeated
    entry = real.create(max_tokens=1, logprobs=True, top_logprobs=4).choices[0].logprobs.content[0]
    assert len(entry.top_logprobs) == 4
    assert entry.top_logprobs[0].logprob == entry.logprob
