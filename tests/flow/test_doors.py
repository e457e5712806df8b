"""Every door of the gateway: several answers, probabilities, raw continuation, the simple route. Over real sockets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tuneloop.chat import Chat
from tuneloop.engines import EngineConfig
from tuneloop.models import Bundle, load_tokenizer, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.types import Message

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
openai = pytest.importorskip("openai", reason="pip install 'tuneloop[dev]'")

from tuneloop.serve.check import running  # noqa: E402

ASK = [{"role": "user", "content": "I lost my card 卡"}]
SYSTEM = "Answer with the intent."


class Site:
    """A running gateway over the fake engine, which echoes the prompt."""

    def __init__(self, url: str, key: str, chat: Chat) -> None:
        self.url, self.chat, self.headers = url, chat, {"Authorization": f"Bearer {key}"}
        self.client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return httpx.post(f"{self.url}{path}", json=body, headers=self.headers, timeout=30)

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        lines = [line for line in self.post(path, body | {"stream": True}).text.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


@pytest.fixture(scope="module")
def site(bundle: Bundle) -> Iterator[Site]:
    config = ServeConfig(engine=EngineConfig(name="fake"), model_name="bank", system=SYSTEM)
    with running(config, bundle) as (_, url, key):
        yield Site(url, key, Chat(load_tokenizer(bundle)))


def drawn(site: Site, **more: Any) -> Any:
    return site.client.chat.completions.create(model="bank", messages=ASK, max_tokens=12, temperature=1, **more)


def test_n_answers_are_drawn_with_seeds_that_follow_each_other(site: Site) -> None:
    three = drawn(site, n=3, seed=5)
    alone = [drawn(site, seed=5 + i).choices[0].message.content for i in range(3)]
    assert [c.message.content for c in three.choices] == alone
    assert len(set(alone)) == 3
    assert three.usage.completion_tokens == sum(drawn(site, seed=5 + i).usage.completion_tokens for i in range(3))


def test_n_streamed_answers_are_the_whole_ones(site: Site) -> None:
    whole = [c.message.content for c in drawn(site, n=2, seed=5).choices]
    told = ["", ""]
    ended: dict[int, str] = {}
    for chunk in drawn(site, n=2, seed=5, stream=True):
        for choice in chunk.choices:
            told[choice.index] += choice.delta.content or ""
            ended |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert told == whole
    assert set(ended) == {0, 1}


def test_logprobs_are_those_of_the_tokens_that_were_sent(site: Site) -> None:
    ids = site.chat.prompt_ids([Message("user", ASK[0]["content"])])
    reply = site.client.chat.completions.create(model="bank", messages=ASK, logprobs=True)
    found = reply.choices[0].logprobs.content
    shown = b"".join(bytes(t.bytes) for t in found).decode()
    assert len(found) == reply.usage.completion_tokens
    assert shown.replace("<|im_start|>", "").replace("<|im_end|>", "") == reply.choices[0].message.content
    made = ids[: len(found)]  # what the fake engine gives every token
    assert [t.logprob for t in found] == pytest.approx([-math.log(2 + i % 7) for i in made])


def test_streamed_logprobs_are_the_whole_ones(site: Site) -> None:
    whole = site.client.chat.completions.create(model="bank", messages=ASK, logprobs=True)
    chunks = site.client.chat.completions.create(model="bank", messages=ASK, logprobs=True, stream=True)
    streamed = [t for c in chunks for choice in c.choices if choice.logprobs for t in choice.logprobs.content]
    assert streamed == whole.choices[0].logprobs.content


def test_logprobs_end_where_a_stop_string_cuts(site: Site) -> None:
    reply = site.client.chat.completions.create(model="bank", messages=ASK, logprobs=True, stop="card")
    shown = b"".join(bytes(t.bytes) for t in reply.choices[0].logprobs.content).decode()
    assert "card" not in shown
    assert reply.choices[0].message.content in shown.replace("<|im_start|>", "").replace("<|im_end|>", "")


def test_completions_continue_the_text_without_a_template(site: Site) -> None:
    reply = site.client.completions.create(model="bank", prompt="my card is lost", max_tokens=50)
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("my card is lost", "stop")
    assert reply.id.startswith("cmpl-")


def test_completions_take_token_ids_and_several_prompts(site: Site) -> None:
    ids = site.chat.tokenizer("lost", add_special_tokens=False)["input_ids"]
    assert site.client.completions.create(model="bank", prompt=ids).choices[0].text == "lost"
    several = site.client.completions.create(model="bank", prompt=["one", "two"], n=2)
    assert [c.text for c in several.choices] == ["one", "one", "two", "two"]


def test_streamed_completions_are_the_whole_ones(site: Site) -> None:
    body = {"prompt": "my card is lost", "logprobs": 0, "stream_options": {"include_usage": True}}
    plain = {k: v for k, v in body.items() if k != "stream_options"}
    whole = site.post("/v1/completions", plain).json()
    events = site.events("/v1/completions", body)
    choices = [c for e in events for c in e["choices"]]
    assert "".join(c["text"] for c in choices) == whole["choices"][0]["text"]
    for key in ("tokens", "token_logprobs", "text_offset"):
        assert [x for c in choices for x in c["logprobs"][key]] == whole["choices"][0]["logprobs"][key]
    assert events[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "return_token_ids": True}, "return_token_ids"),
        ({"prompt": "a", "suffix": "x"}, "suffix"),
        ({"prompt": 7}, "prompt"),
    ],
)
def test_what_completions_cannot_obey_is_refused_by_name(site: Site, body: dict[str, Any], param: str) -> None:
    reply = site.post("/v1/completions", body)
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"] or "").startswith(param)


def test_generate_asks_as_a_user_with_the_configured_system_message(site: Site) -> None:
    found = site.post("/generate", {"prompt": "hello"}).json()
    assert SYSTEM in found["text"]
    asked = [Message("system", SYSTEM), Message("user", "hello")]
    assert found["usage"]["prompt_tokens"] == len(site.chat.prompt_ids(asked))
    assert found["finish_reason"] == "stop"
    assert set(found["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_generate_takes_its_own_system_message_or_none(site: Site) -> None:
    assert "Be brief." in site.post("/generate", {"prompt": "hello", "system": "Be brief."}).json()["text"]
    assert site.post("/generate", {"prompt": "hello", "raw": True}).json()["text"] == "hello"


def test_streamed_generate_is_the_whole_one(site: Site) -> None:
    whole = site.post("/generate", {"prompt": "hello"}).json()
    events = site.events("/generate", {"prompt": "hello"})
    assert "".join(e.get("text", "") for e in events) == whole["text"]
    assert events[-1]["usage"] == whole["usage"]


def test_generate_needs_a_key(site: Site) -> None:
    assert httpx.post(f"{site.url}/generate", json={"prompt": "hello"}).status_code == 401


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate"])
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
def test_a_body_of_another_kind_is_a_415(site: Site, path: str, kind: str, status: int) -> None:
    """Pages of the web may send text/plain to any address without asking it first."""
    body = b'{"messages": [{"role": "user", "content": "a"}]}' if "chat" in path else b'{"prompt": "hello"}'
    headers = site.headers | {"Content-Type": kind}
    reply = httpx.post(site.url + path, content=body, headers=headers)
    assert reply.status_code == status, reply.text
    if status == 415:
        assert reply.json()["error"]["code"] == "invalid_content_type"
