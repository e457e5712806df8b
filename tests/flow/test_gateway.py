"""The gateway over real sockets: the official client, every refusal, overload, clients that leave, drain."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_like import VllmLike
from tests.waiting import waiter
from tuneloop import serve
from tuneloop.chat import Chat
from tuneloop.engines import EngineConfig, FakeConfig, UpstreamConfig, create, generate
from tuneloop.models import Bundle, load_tokenizer, open_bundle
from tuneloop.rundir import RunDir
from tuneloop.serve import ServeConfig
from tuneloop.serve.observe import ObserveConfig
from tuneloop.types import Message, Request, Sampling

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
openai = pytest.importorskip("openai", reason="pip install 'tuneloop[dev]'")

from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.gateway import Gateway  # noqa: E402
from tuneloop.serve.keys import KeyRing  # noqa: E402

wait_for = waiter(10.0)
ASK = [{"role": "user", "content": "I lost my card"}]
SLOW_S = 0.02


class Site:
    """A running gateway and clients for it."""

    def __init__(self, gateway: Gateway, url: str, key: str) -> None:
        self.gateway, self.url, self.key = gateway, url, key
        self.headers = {"Authorization": f"Bearer {key}"}

    def client(self) -> Any:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def post(self, body: dict[str, Any], **more: Any) -> Any:
        path = f"{self.url}/v1/chat/completions"
        return httpx.post(path, json=body, headers=self.headers, timeout=30, **more)

    def metric(self, name: str, **labels: str) -> float:
        text = httpx.get(f"{self.url}/metrics", headers=self.headers).text
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


@pytest.fixture(scope="module")
def fast(bundle: Bundle) -> Iterator[Site]:
    engine = EngineConfig(name="fake", stream_interval_s=0)
    with running(ServeConfig(engine=engine, model_name="bank"), bundle) as (gateway, url, key):
        yield Site(gateway, url, key)


@pytest.fixture
def slow(bundle: Bundle) -> Iterator[Site]:
    """Two places, two more in the queue, 50 tokens a second."""
    engine = EngineConfig(name="fake", max_running=2, fake=FakeConfig(token_delay_s=SLOW_S, answer_ids=(70,) * 400))
    with running(ServeConfig(engine=engine, model_name="bank", max_queue=2), bundle) as (gateway, url, key):
        yield Site(gateway, url, key)


def test_the_openai_client_gets_an_answer_with_usage(fast: Site) -> None:
    reply = fast.client().chat.completions.create(model="bank", messages=ASK)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content.startswith("system\nYou are a helpful assistant.")  # the fake engine echoes
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.id.startswith("chatcmpl-")


@pytest.mark.parametrize(("interval_s", "fewest", "most"), [(0.0, 30, 40), (0.2, 2, 16)])
def test_a_stream_brings_its_first_token_at_once_and_then_a_piece_an_interval(
    bundle: Bundle, interval_s: float, fewest: int, most: int
) -> None:
    """40 tokens, one each 20 ms."""
    fake = FakeConfig(token_delay_s=SLOW_S, answer_ids=(70,) * 40)
    engine = EngineConfig(name="fake", stream_interval_s=interval_s, fake=fake)
    with running(ServeConfig(engine=engine), bundle) as (gateway, url, key):
        client = Site(gateway, url, key).client().chat.completions
        chunks = list(client.create(model=gateway.model, messages=ASK, stream=True))
    pieces = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
    one = load_tokenizer(bundle).decode([70])
    assert "".join(pieces) == one * 40
    assert pieces[0] == one
    assert fewest <= len(pieces) <= most


@pytest.mark.parametrize(("every_s", "measured"), [(0.0, 5), (60.0, 1)])
def test_the_confidence_of_one_answer_in_so_many_seconds_is_measured(
    bundle: Bundle, every_s: float, measured: int
) -> None:
    config = ServeConfig(engine=EngineConfig(name="fake"), observe=ObserveConfig(confidence_every_s=every_s))
    with running(config, bundle) as (gateway, url, key):
        site = Site(gateway, url, key)
        assert all(site.post({"messages": ASK}).status_code == 200 for _ in range(5))
        found = site.post({"messages": ASK, "logprobs": True}).json()["choices"][0]["logprobs"]["content"]
        assert all(entry["logprob"] < 0 for entry in found)
        assert site.metric("tuneloop_answer_confidence_ratio_count") == measured + 1


def test_streaming_gives_the_same_text_and_usage_when_asked(fast: Site) -> None:
    client = fast.client().chat.completions
    whole = client.create(model="bank", messages=ASK)
    chunks = list(client.create(model="bank", messages=ASK, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 4
    without = list(client.create(model="bank", messages=ASK, stream=True))
    assert all(c.usage is None for c in without)


def test_a_stop_string_ends_the_answer_wherever_the_tokens_are_cut(fast: Site) -> None:
    for stop in ("helpful", "re a hel", ["nothing", "\nYou"]):
        full = fast.client().chat.completions.create(model="bank", messages=ASK).choices[0].message.content
        cut = fast.client().chat.completions.create(model="bank", messages=ASK, stop=stop)
        word = stop if isinstance(stop, str) else stop[1]
        assert cut.choices[0].message.content == full[: full.index(word)]
        assert cut.choices[0].finish_reason == "stop"


def test_max_tokens_ends_with_length_under_both_names(fast: Site) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = fast.client().chat.completions.create(model="bank", messages=ASK, **{name: 3})
        assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 3)


def test_models_lists_what_is_served(fast: Site) -> None:
    assert [m.id for m in fast.client().models.list()] == ["bank"]
    assert fast.client().models.retrieve("bank").id == "bank"
    with pytest.raises(openai.NotFoundError):
        fast.client().models.retrieve("other")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json"}}, "response_format"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10, "max_completion_tokens": 11}, "max_tokens"),
        ({"max_tokens": 1_000_000}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": "x", "name": "joe"}]}, "messages.0.name"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(fast: Site, change: dict[str, Any], param: str) -> None:
    reply = fast.post({"messages": ASK} | change)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_server_behind_the_engine_refuses_is_a_400_and_no_failure_of_the_engine(
    bundle: Bundle, stream: bool
) -> None:
    server = VllmLike(create(EngineConfig(name="fake"), None))
    try:
        engine = EngineConfig(name="upstream", upstream=UpstreamConfig(url=server.url))
        with running(ServeConfig(engine=engine, model_name="bank"), bundle) as (gateway, url, key):
            site = Site(gateway, url, key)
            server.refusal = b'{"error": {"message": "no penalties here"}}'
            reply = site.post({"messages": ASK, "stream": stream, "presence_penalty": 1})
            assert reply.status_code == 400
            assert reply.json()["error"]["code"] == "upstream_refused"
            assert "the server answered 400: no penalties here" in reply.json()["error"]["message"]
            assert site.metric("tuneloop_errors_total") == 0
            server.refusal = None
            assert site.post({"messages": ASK, "max_tokens": 2}).status_code == 200
    finally:
        server.close()


def test_values_that_ask_for_nothing_are_accepted(fast: Site) -> None:
    neutral = {"n": 1, "logprobs": False, "tools": [], "presence_penalty": 0.0, "response_format": {"type": "text"}}
    neutral |= {"return_token_ids": False, "store": False, "service_tier": "auto", "metadata": {"team": "cards"}}
    neutral |= {"safety_identifier": "joe", "prompt_cache_key": "bank", "max_tokens": 4, "max_completion_tokens": 4}
    neutral |= {"stream": True, "stream_options": {"include_obfuscation": False}}
    assert fast.post({"messages": ASK} | neutral).status_code == 200


def test_a_prompt_beyond_the_context_is_a_400_with_openais_code(fast: Site) -> None:
    reply = fast.post({"messages": [{"role": "user", "content": "word " * 9000}]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_an_unknown_model_is_a_404(fast: Site) -> None:
    with pytest.raises(openai.NotFoundError):
        fast.client().chat.completions.create(model="gpt-4", messages=ASK)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"messages": 1}', b"\xff\xfe"])
def test_a_broken_body_is_a_400_in_openais_shape(fast: Site, body: bytes) -> None:
    headers = fast.headers | {"Content-Type": "application/json"}
    reply = httpx.post(f"{fast.url}/v1/chat/completions", content=body, headers=headers)
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_compressed_body_is_a_415_that_says_so(fast: Site) -> None:
    text = json.dumps({"messages": ASK, "max_tokens": 1}).encode()
    headers = fast.headers | {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    for path in ("/v1/chat/completions", "/v1/files"):
        reply = httpx.post(fast.url + path, content=gzip.compress(text), headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_content_encoding")
    headers["Content-Encoding"] = "identity"
    assert httpx.post(f"{fast.url}/v1/chat/completions", content=text, headers=headers).status_code == 200


def test_a_body_that_is_too_large_is_a_413_with_and_without_a_length(fast: Site) -> None:
    big = b" " * 1_100_000
    for content in (big, (big[i : i + 65536] for i in range(0, len(big), 65536))):
        reply = httpx.post(f"{fast.url}/v1/chat/completions", content=content, headers=fast.headers)
        assert reply.status_code == 413


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/models", "/v1/models/bank", "/metrics", "/", "/docs", "/openapi.json", "/v1/x", "//healthz",
     "/admin", "/healthz/../metrics", "/healthz/x", "/v1/chat/completions/"],
)  # fmt: skip
def test_every_route_also_an_unknown_one_needs_a_key(fast: Site, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer tl-wrong"}, {"Authorization": f"Basic {fast.key}"}):
        assert httpx.request(method, fast.url + path, headers=headers).status_code == 401


def test_a_key_opens_only_its_scope(fast: Site) -> None:
    assert httpx.get(f"{fast.url}/v1/models", headers=fast.headers).status_code == 200
    assert httpx.get(f"{fast.url}/metrics", headers=fast.headers).status_code == 200
    assert httpx.get(f"{fast.url}/openapi.json", headers=fast.headers).status_code == 403  # it lacks admin


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/models", "did you mean /v1/models?"),
        ("/chat/completions", "did you mean /v1/chat/completions?"),
        ("//v1/models", "did you mean /v1/models?"),
        ("/v1/v1/chat/completions", "did you mean /v1/chat/completions?"),
        ("/v1/generate/", "did you mean /generate?"),
        ("/v1/unknown", "the paths are /generate, /healthz"),
        ("/docs", "the paths are /generate, /healthz"),
        ("/", "the paths are /generate, /healthz"),
    ],
)
@pytest.mark.parametrize("scope", ["chat", "metrics", "admin"])
def test_a_path_that_no_route_has_is_a_404_that_knows_what_is_meant(
    fast: Site, monkeypatch: pytest.MonkeyPatch, path: str, hint: str, scope: Any
) -> None:
    monkeypatch.setattr(fast.gateway, "ring", KeyRing.of("one", scopes=(scope,)))
    reply = httpx.get(fast.url + path, headers={"Authorization": "Bearer one"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_url")
    assert reply.json()["error"]["message"].startswith(f"there is nothing at {path!r}; {hint}")


def test_health_needs_no_key_and_every_answer_has_a_request_id(fast: Site) -> None:
    seen = set()
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 401)):
        reply = httpx.get(fast.url + path)
        assert reply.status_code == status
        seen.add(reply.headers["x-request-id"])
    assert len(seen) == 3
    reply = fast.post({"messages": ASK})
    assert reply.json()["id"] == f"chatcmpl-{reply.headers['x-request-id']}"


@pytest.mark.parametrize(
    ("manifest", "since", "until"),
    [
        ({"created": "2026-11-22T10:00:00+00:00"}, 1_795_341_600, 1_795_341_600),
        ({}, time.time() - 1, time.time() + 1e6),
    ],
    ids=["bundle", "plain folder"],
)
def test_a_model_is_as_old_as_its_bundle(bundle: Bundle, manifest: dict[str, str], since: float, until: float) -> None:
    config = ServeConfig(engine=EngineConfig(name="fake"))
    with running(config, replace(bundle, manifest=manifest)) as (_, url, key):
        reply = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert since <= reply.json()["data"][0]["created"] <= until


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models"])
def test_head_is_answered_as_get_without_the_body(fast: Site, path: str) -> None:
    with httpx.Client(base_url=fast.url, headers=fast.headers) as http:  # one connection: a body would break the next
        head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))


def test_metrics_count_and_carry_no_secrets(fast: Site) -> None:
    before = fast.metric("tuneloop_generation_tokens_total"), fast.metric("model_latency_seconds_count")
    secret = "a very private question"
    fast.post({"messages": [{"role": "user", "content": secret}], "user": "joe-the-user", "max_tokens": 4})
    after = fast.metric("tuneloop_generation_tokens_total"), fast.metric("model_latency_seconds_count")
    assert (after[0] - before[0], after[1] - before[1]) == (4, 1)
    text = httpx.get(f"{fast.url}/metrics", headers=fast.headers).text
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"):
        assert f"tuneloop_{name}_bucket{{" in text
    assert re.search(
        r'tuneloop_num_requests_running\{arm="default",model="bank",precision="float32",version="\w+"\}', text
    )
    assert not any(word in text for word in (secret, "joe-the-user", fast.key))


def test_the_context_of_a_request_is_filled(fast: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Request] = []
    submit = fast.gateway.process.submit
    monkeypatch.setattr(fast.gateway.process, "submit", lambda r: (seen.append(r), submit(r)))
    body = {"messages": ASK, "user": "joe"}
    httpx.post(f"{fast.url}/v1/chat/completions", json=body, headers=fast.headers | {"X-Conversation-Id": "c7"})
    context = seen[0].context
    assert (context.model, context.precision, context.arm) == ("bank", "float32", "default")
    assert (context.user, context.conversation, bool(context.version)) == ("joe", "c7", True)


def test_a_full_queue_is_a_429_with_retry_after_and_nobody_else_suffers(slow: Site) -> None:
    body = {"messages": ASK, "max_tokens": 30}
    with ThreadPoolExecutor(4) as pool:
        accepted = [pool.submit(slow.post, body) for _ in range(4)]
        wait_for(lambda: slow.gateway.process.in_flight == 4)
        refused = slow.post(body)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["code"] == "queue_full"
        assert [f.result().status_code for f in accepted] == [200] * 4
    assert slow.post(body).status_code == 200


def test_a_client_that_leaves_frees_its_place_within_a_step(slow: Site) -> None:
    for streaming in (True, False):
        body = {"messages": ASK, "max_tokens": 400, "stream": streaming}
        client = httpx.Client(headers=slow.headers, timeout=httpx.Timeout(10, read=0.3 if not streaming else 10))
        with client:
            if streaming:
                with client.stream("POST", f"{slow.url}/v1/chat/completions", json=body) as reply:
                    next(reply.iter_lines())
                    assert slow.gateway.process.in_flight == 1
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(f"{slow.url}/v1/chat/completions", json=body)
        left = time.monotonic()
        wait_for(lambda: slow.gateway.process.in_flight == 0)
        assert time.monotonic() - left < 0.5  # 400 tokens would have taken 8 s


def test_a_client_that_leaves_the_queue_makes_room(slow: Site) -> None:
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(slow.post, {"messages": ASK, "max_tokens": 100}) for _ in range(2)]
        wait_for(lambda: slow.gateway.process.in_flight == 2)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{slow.url}/v1/chat/completions",
                json={"messages": ASK, "stream": True},
                headers=slow.headers,
                timeout=httpx.Timeout(10, read=0.2),
            )
        wait_for(lambda: slow.gateway.process.in_flight == 2, 1.0)
        assert [f.result().status_code for f in busy] == [200, 200]


def test_a_killed_engine_is_a_clean_500_then_503_then_service_again(slow: Site) -> None:
    with ThreadPoolExecutor(1) as pool:
        running_one = pool.submit(slow.post, {"messages": ASK, "max_tokens": 300})
        wait_for(lambda: slow.metric("tuneloop_generation_tokens_total") > 0)
        pid = slow.gateway.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        reply = running_one.result()
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "engine_error")
    if not slow.gateway.process.ready:
        refused = slow.post({"messages": ASK})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert httpx.get(f"{slow.url}/readyz").status_code == 503
        assert httpx.get(f"{slow.url}/healthz").status_code == 200
    wait_for(lambda: httpx.get(f"{slow.url}/readyz").status_code == 200)
    assert slow.post({"messages": ASK, "max_tokens": 2}).status_code == 200
    assert slow.metric("tuneloop_engine_restarts_total") == 1


def test_an_engine_that_dies_in_mid_stream_says_so_in_the_stream(slow: Site) -> None:
    body = {"messages": ASK, "max_tokens": 300, "stream": True}
    with httpx.stream("POST", f"{slow.url}/v1/chat/completions", json=body, headers=slow.headers, timeout=20) as reply:
        lines = reply.iter_lines()
        next(lines)
        os.kill(slow.gateway.process.pid or 0, signal.SIGKILL)
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert json.loads(data[-1])["error"]["code"] == "engine_error"
    assert "[DONE]" not in data


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz")
    except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
        return True
    return False


def test_sigterm_drains_every_accepted_request_and_exits_with_0(bundle: Bundle, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from tuneloop import serve
        from tuneloop.engines import EngineConfig, FakeConfig
        fake = FakeConfig(token_delay_s=0.02, answer_ids=(70,) * 400)
        engine = EngineConfig(name="fake", max_running=2, fake=fake)
        serve.run(Path({str(bundle.path)!r}), serve.ServeConfig(engine=engine, port=0))
        """
    )
    env = os.environ | {"TUNELOOP_HOME": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, env=env, **pipes) as server:
        assert server.stdout is not None
        said = server.stdout.readline() + server.stdout.readline()
        found_url, found_key = re.search(r"http://[\d.]+:\d+", said), re.search(r"tl-[\w-]{43}", said)
        assert found_url is not None
        assert found_key is not None  # the first key is made and shown once
        url, headers = found_url.group(), {"Authorization": f"Bearer {found_key.group()}"}
        body = {"messages": ASK, "max_tokens": 100}
        drain = threading.Thread(target=lambda: [server.stderr.readline() for _ in range(1)])  # type: ignore[union-attr]
        with ThreadPoolExecutor(4) as pool:
            path = f"{url}/v1/chat/completions"
            asked = [pool.submit(httpx.post, path, json=body, headers=headers, timeout=30) for _ in range(4)]
            accepted = re.compile(r"^tuneloop_num_requests_(?:running|waiting)\{.*\} (\d)", re.MULTILINE)

            def count() -> int:
                text = httpx.get(f"{url}/metrics", headers=headers).text
                return sum(int(n) for n in accepted.findall(text))

            wait_for(lambda: count() == 4)  # two run, two wait
            server.send_signal(signal.SIGTERM)
            drain.start()
            wait_for(lambda: refuses(url))
            replies = [a.result() for a in asked]
        assert [r.status_code for r in replies] == [200] * 4
        assert all(r.json()["usage"]["completion_tokens"] == 100 for r in replies)
        assert server.wait(20) == 0
        drain.join()


def test_the_served_answer_is_the_engines_answer_token_for_token(bundle: Bundle) -> None:
    """A real (tiny, random) model behind HTTP, all at once, against the same engine asked directly."""
    config = EngineConfig(name="transformers", max_running=4, threads=1)
    chat = Chat(load_tokenizer(bundle))
    questions = [[Message("user", f"Why was I charged {i} times?")] for i in range(6)]
    engine = create(config, bundle)
    direct = generate(
        engine, [Request(str(i), chat.prompt_ids(q), Sampling(12), chat.stop_ids) for i, q in enumerate(questions)]
    )
    engine.close()
    with running(ServeConfig(engine=config), bundle) as (gateway, url, key), ThreadPoolExecutor(6) as pool:
        site = Site(gateway, url, key)
        bodies = [{"messages": [{"role": "user", "content": q[0].content}], "max_tokens": 12} for q in questions]
        served = [r.json()["choices"][0]["message"]["content"] for r in pool.map(site.post, bodies)]
    assert served == [chat.decode(r.token_ids) for r in direct]


def test_our_own_bug_is_a_500_with_a_request_id_and_a_traceback_in_the_log(
    slow: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slow.gateway.chat, "prompt", lambda *_: 1 / 0)
    reply = slow.post({"messages": ASK})
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    logged = capsys.readouterr().err
    assert reply.headers["x-request-id"] in logged
    assert "ZeroDivisionError" in logged
    assert "ZeroDivisionError" not in reply.text


def test_smoke_measures_over_http_and_reads_back(bundle: Bundle, tmp_path: Path) -> None:
    prompts = [[Message("user", f"question {i}")] for i in range(5)]
    expected = ["system\nYou are a helpful assistant."] * 4 + ["something else"]
    config = ServeConfig(engine=EngineConfig(name="fake"))
    check = serve.smoke(config, bundle, prompts, RunDir(tmp_path), expected=expected)
    assert (check.n, check.errors, check.matches, check.streamed_equals_whole) == (5, 0, 4, True)
    assert 0 < check.p50_s <= check.p95_s
    assert check.tokens_per_s > 0
    assert serve.load(RunDir(tmp_path)) == check
