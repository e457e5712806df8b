"""What is special about servers behind the engine ``upstream``; the rest is in tests/contract."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.llama_server import free_port
from tests.vllm_like import MODEL, VllmLike
from tuneloop.chat import Chat
from tuneloop.engines import EngineConfig, FakeConfig, UpstreamConfig, create, generate
from tuneloop.errors import ConfigError, ServeError
from tuneloop.models import Bundle, load_tokenizer, open_bundle
from tuneloop.types import Grammar, Request, Response, Sampling, TokenEvent

pytest.importorskip("aiohttp", reason="pip install 'tuneloop[serve]'")

from tuneloop.engines.base import DENIED
from tuneloop.engines.grammar import REFUSED
from tuneloop.engines.upstream import UpstreamEngine
from tuneloop.engines.upstream_dialects import ControlTokens, Job, LlamaServer, Text, Vllm

PROMPT = tuple(range(40, 60))


def fake(**more: float) -> EngineConfig:
    return EngineConfig(name="fake", max_running=4, fake=FakeConfig(**more))


@pytest.fixture
def server() -> Iterator[VllmLike]:
    made = VllmLike(create(fake(token_delay_s=0.002), None))
    yield made
    made.close()


def connect(url: str, bundle: Bundle | None = None, **upstream: object) -> UpstreamEngine:
    config = EngineConfig(name="upstream", max_running=4, upstream=UpstreamConfig(url=url, **upstream))  # type: ignore[arg-type]
    engine = create(config, bundle)
    assert isinstance(engine, UpstreamEngine)
    return engine


def ask(engine: UpstreamEngine, stop: tuple[int, ...] = (), **sampling: object) -> Response:
    return generate(engine, [Request("one", PROMPT, Sampling(**sampling), stop)])[0]  # type: ignore[arg-type]


def test_a_server_like_vllm_is_recognised_and_its_context_is_taken(server: VllmLike) -> None:
    engine = connect(f"{server.url}/v1/")
    try:
        assert isinstance(engine.dialect, Vllm)
        assert engine.capabilities.max_context_tokens == 4096
        assert engine.capabilities.top_logprobs == 20
    finally:
        engine.close()


def test_every_word_of_sampling_reaches_the_server(server: VllmLike) -> None:
    engine = connect(server.url)
    try:
        ask(
            engine, stop=(7, 9), max_tokens=5, temperature=0.5, top_p=0.9, top_k=3, seed=11, presence_penalty=0.25,
            frequency_penalty=-0.5, logit_bias=((17, 2.0),), top_logprobs=2,
        )  # fmt: skip
    finally:
        engine.close()
    sent = server.bodies[-1]
    assert sent == {
        "model": MODEL, "prompt": list(PROMPT), "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 11,
        "presence_penalty": 0.25, "frequency_penalty": -0.5, "logit_bias": {"17": 2.0}, "logprobs": 2, "stream": True,
        "return_token_ids": True, "return_tokens_as_token_ids": True, "ignore_eos": True, "stop_token_ids": [7, 9],
        "skip_special_tokens": False,
    }  # fmt: skip


class Words:
    """Stands for a tokenizer whose every answer reads as the probe's word."""

    def decode(self, ids: list[int]) -> str:
        return ' "tuneloop"'


def test_a_server_that_leaves_grammars_out_silently_is_found_out(server: VllmLike) -> None:
    engine = connect(server.url)
    assert not engine.capabilities.grammar
    assert "structured_outputs" in server.bodies[-1]  # it was asked
    engine.close()
    server.words = Words()
    engine = connect(server.url)
    assert engine.capabilities.grammar
    engine.close()


def test_a_grammar_that_the_server_refuses_is_called_that(server: VllmLike) -> None:
    server.words = Words()
    engine = connect(server.url)
    server.refusal = b'{"error": {"message": "Invalid grammar specification."}}'
    try:
        held, free = ask(engine, grammar=Grammar("{}")), ask(engine)
    finally:
        engine.close()
    assert held.error == f"{REFUSED}the server answered 400: Invalid grammar specification."
    assert free.error == f"{DENIED}the server answered 400: Invalid grammar specification."


def test_what_ends_an_answer_with_a_grammar_is_no_part_of_it() -> None:
    """Where a grammar is complete vLLM allows the tokenizer's end token, which need be no stop id of the request."""
    way = Vllm(MODEL, ControlTokens({"<end>": 9}, frozenset({9}))).with_grammar()
    request = Request("one", PROMPT, Sampling(grammar=Grammar('{"const": 1}', before="<end>")), ())
    body = way.body(Job(request, 10))
    assert body["structured_outputs"]["grammar"].startswith("%llguidance {}\nstart: <[9]> body")
    assert body["ignore_eos"] is False
    chunk = {"choices": [{"token_ids": [5, 9], "finish_reason": "stop"}]}
    assert way.read(Job(request, 10), chunk) == TokenEvent("one", (5,), finish="stop")


def test_alternatives_come_back_best_first_and_only_as_many_as_asked(server: VllmLike) -> None:
    engine = connect(server.url)
    try:
        engine.submit(Request("r", PROMPT, Sampling(2, top_logprobs=1)))
        events = []
        while not any(e.finish for e in events):
            events += engine.poll(1.0)
    finally:
        engine.close()
    top = [pair for e in events for pair in e.top]
    made = [(t, v) for e in events for t, v in zip(e.token_ids, e.logprobs, strict=True)]
    assert top == [(pair,) for pair in made]


def test_the_key_comes_from_the_environment_and_its_lack_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = VllmLike(create(fake(), None), key="secret")
    try:
        monkeypatch.setenv("MY_KEY", "secret")
        engine = connect(server.url, key_env="MY_KEY")
        assert ask(engine, max_tokens=2).finish == "length"
        engine.close()
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(ServeError, match="401") as caught:
            connect(server.url, key_env="MY_KEY")
        assert "engine.upstream.key_env" in str(caught.value)
    finally:
        server.close()


def test_a_model_that_the_server_lacks_is_an_error_that_names_those_it_has(server: VllmLike) -> None:
    with pytest.raises(ConfigError, match=f"'other'; it has {MODEL}"):
        connect(server.url, model="other")


def test_nobody_there_is_an_error_with_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServeError, match=url):
        connect(url)


def test_no_address_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"engine\.upstream\.url"):
        create(EngineConfig(name="upstream"), None)


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        (b"", "ended its stream"),
        (b"data: [DONE]\n\n", "ended its stream"),
        (b"data: {nonsense\n\n", "cannot be understood"),
        (b'data: {"choices": "no"}\n\n', "cannot be understood"),
        (b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (b'data: {"choices": [{"token_ids": [], "finish_reason": "abort"}]}\n\n', "abort"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error_and_the_next_request_goes_on(
    server: VllmLike, instead: bytes, reason: str
) -> None:
    engine = connect(server.url)
    try:
        server.broken = lambda chunk: instead if chunk == 3 else None
        broken = ask(engine, max_tokens=10)
        assert (broken.finish, len(broken.token_ids)) == ("error", 3)
        assert reason in (broken.error or "")
        server.broken = lambda chunk: None
        assert ask(engine, max_tokens=10).finish == "length"
    finally:
        engine.close()


def test_more_tokens_than_asked_for_are_cut(server: VllmLike) -> None:
    chunk = b'data: {"choices": [{"token_ids": [5, 6, 7, 8], "finish_reason": null}]}\n\n'
    server.broken = lambda n: chunk if n == 2 else None
    engine = connect(server.url)
    try:
        answer = ask(engine, max_tokens=4)
        assert (answer.finish, answer.token_ids[2:]) == ("length", (5, 6))
    finally:
        engine.close()


def test_a_connection_serves_one_request_after_the_other(server: VllmLike) -> None:
    engine = connect(server.url)
    try:
        before = server.connections
        for _ in range(5):
            assert ask(engine, max_tokens=3).finish == "length"
        assert server.connections == before
    finally:
        engine.close()


def test_a_kept_connection_that_the_server_has_closed_costs_no_request(server: VllmLike) -> None:
    engine = connect(server.url)
    server.forgetful = True
    try:
        assert [ask(engine, max_tokens=3).finish for _ in range(6)] == ["length"] * 6
    finally:
        engine.close()


def test_a_silent_server_ends_the_request_after_the_timeout() -> None:
    server = VllmLike(create(fake(token_delay_s=0.0), None))
    engine = connect(server.url, read_timeout_s=0.3)
    try:
        server.broken = lambda n: time.sleep(1.0)  # type: ignore[func-returns-value]
        answer = ask(engine, max_tokens=3)
        assert answer.finish == "error"
        assert "Timeout" in (answer.error or "")
    finally:
        engine.close()
        server.close()


def test_a_server_that_has_gone_is_an_error_not_a_hang(server: VllmLike) -> None:
    other = VllmLike(create(fake(), None))
    engine = connect(other.url)
    other.close()
    try:
        answer = ask(engine)
        assert answer.finish == "error"
        assert "connection" in (answer.error or "")
    finally:
        engine.close()


def test_cancelling_closes_the_connection_so_that_the_server_stops_too(server: VllmLike) -> None:
    engine = connect(server.url)
    try:
        engine.submit(Request("r", PROMPT * 50, Sampling(900)))
        while not any(e.token_ids for e in engine.poll(1.0)):
            pass
        engine.cancel("r")
        deadline = time.monotonic() + 5
        while not server.cancelled:
            assert time.monotonic() < deadline, "the server goes on"
            time.sleep(0.01)
    finally:
        engine.close()


def test_a_server_that_takes_no_token_ids_is_refused() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        with pytest.raises(ServeError, match="takes no token ids"):
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_our_own_gateway_gives_text_and_the_text_is_exact(tiny: Callable[..., Path]) -> None:
    pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")
    from tuneloop.serve import ServeConfig
    from tuneloop.serve.check import running

    bundle = open_bundle(tiny("llama", "chatml"))
    chat = Chat(load_tokenizer(bundle))
    prompt = tuple(chat.tokenizer("My card 我的银行卡丢了 is lost!")["input_ids"])
    with (
        running(ServeConfig(engine=fake(), model_name="bank"), bundle) as (_, url, key),
        pytest.MonkeyPatch.context() as m,
    ):
        m.setenv("TUNELOOP_UPSTREAM_KEY", key)
        engine = connect(url, bundle)
        try:
            assert isinstance(engine.dialect, Text)
            assert not engine.capabilities.logprobs
            answer = generate(engine, [Request("r", prompt, Sampling(200), chat.stop_ids)])[0]
        finally:
            engine.close()
    direct = generate(create(fake(), None), [Request("r", prompt, Sampling(200), chat.stop_ids)])[0]
    assert answer.finish == direct.finish == "stop"
    said = chat.tokenizer.decode(direct.token_ids, skip_special_tokens=True)  # as every server writes text
    assert chat.tokenizer.decode(answer.token_ids) == said
    assert "我的银行卡丢了" in chat.tokenizer.decode(answer.token_ids)


def test_a_gap_in_a_stream_of_llama_server_is_asked_for_again() -> None:
    """The chunk after a gap says how many tokens there have been (tools/server of llama.cpp: tokens_predicted)."""
    from tuneloop.engines.upstream_dialects import Job

    way, job = LlamaServer(), Job(Request("r", PROMPT, Sampling(10)), 10)
    assert way.body(job)["stream"] is True
    assert way.read(job, {"tokens": [5], "tokens_predicted": 1, "stop": False}).token_ids == (5,)
    assert way.read(job, {"tokens": [8], "tokens_predicted": 4, "stop": False}).token_ids == ()
    again = way.body(job)
    assert (again["stream"], again["prompt"], again["n_predict"]) == (False, [*PROMPT, 5], 3)
    filled = {"tokens": [6, 7, 8], "tokens_predicted": 3, "stop": True, "stop_type": "limit"}
    event = way.read(job, filled)
    assert (event.token_ids, event.finish) == ((6, 7, 8), None)
    assert way.body(job)["stream"] is True
