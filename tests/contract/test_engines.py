"""Every engine keeps the same promises, in this process and behind a supervised child process."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.llama_server import llama_server
from tests.tiny import tiny_tokenizer
from tests.tiny_gguf import tiny_gguf
from tests.vllm_like import VllmLike
from tests.vllm_server import COMMAND, vllm_server
from tuneloop.engines import Engine, EngineConfig, FakeConfig, ProcessEngine, UpstreamConfig, create, generate
from tuneloop.errors import ServeError
from tuneloop.models import Bundle, open_bundle
from tuneloop.types import Request, Response, Sampling, TokenEvent

CONTEXT, RUNNING = 256, 4
PROMPT = tuple(range(40, 64))
KINDS = ["fake", "transformers", "llamacpp", "openvino", "vllm", "llamaserver", *(["realvllm"] if COMMAND else [])]
"""The last ones are the engine ``upstream`` with a server that talks like vLLM, with llama.cpp's real one, and with a real
vLLM where one is named."""
NAMES = {"vllm": "upstream", "llamaserver": "upstream", "realvllm": "upstream"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path]) -> dict[str, Bundle]:
    pytest.importorskip("transformers", reason="the tiny models need the train extra")
    folder = open_bundle(tiny("llama", "chatml"))
    ggufs = tmp_path_factory.mktemp("gguf")
    float32 = open_bundle(tiny_gguf(ggufs / "f32"))
    float16 = open_bundle(tiny_gguf(ggufs / "f16", matrices="f16"))  # openvino reads no float32 matrices
    by_engine = {"llamacpp": float32, "llamaserver": float32, "openvino": float16}
    if COMMAND:
        by_engine["realvllm"] = open_bundle(tiny("llama", "chatml", head_dim=32))  # 16 is too few for it
    return {kind: by_engine.get(kind, folder) for kind in KINDS}


@pytest.fixture(scope="module")
def server(bundles: dict[str, Bundle]) -> Iterator[Callable[[str], str]]:
    """Kind of server -> its address; started when first asked for."""
    urls: dict[str, str] = {}
    with ExitStack() as stack:

        def url(kind: str) -> str:
            if kind not in urls:
                if kind == "vllm":
                    behind = VllmLike(
                        create(_config("transformers"), bundles["transformers"]), words=tiny_tokenizer("chatml")
                    )
                    stack.callback(behind.close)
                    urls[kind] = behind.url
                elif kind == "realvllm":
                    urls[kind] = stack.enter_context(vllm_server(bundles[kind].path, CONTEXT, RUNNING))
                else:
                    urls[kind] = stack.enter_context(llama_server(bundles[kind].gguf_file, CONTEXT, RUNNING))
            return urls[kind]

        yield url


@pytest.fixture(scope="module", params=[*KINDS, *(f"{k}-process" for k in KINDS)])
def engine(
    request: pytest.FixtureRequest, bundles: dict[str, Bundle], server: Callable[[str], str]
) -> Iterator[Engine]:
    made = _make(request.param, bundles, server)
    yield made
    made.close()


@pytest.fixture(params=[*KINDS, *(f"{k}-process" for k in KINDS)])
def fresh(request: pytest.FixtureRequest, bundles: dict[str, Bundle], server: Callable[[str], str]) -> Iterator[Engine]:
    """An engine that the test may close."""
    made = _make(request.param, bundles, server)
    yield made
    made.close()


def _make(param: str, bundles: dict[str, Bundle], server: Callable[[str], str]) -> Engine:
    kind, _, child = param.partition("-")
    if kind in ("llamacpp", "llamaserver"):
        pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")
    if kind == "openvino" and importlib.util.find_spec("openvino_genai") is None:
        pytest.skip("pip install 'tuneloop[openvino]'")
    if NAMES.get(kind) == "upstream":
        pytest.importorskip("aiohttp", reason="pip install 'tuneloop[serve]'")
        config = _config("upstream", upstream=UpstreamConfig(url=server(kind)))
    else:
        config = _config(kind)
    return ProcessEngine(bundles[kind], config) if child else create(config, bundles[kind])


def _config(name: str, **more: Any) -> EngineConfig:
    return EngineConfig(
        name=name,
        max_running=RUNNING,
        context_tokens=CONTEXT,
        threads=1,
        dtype="float32",
        prefix_cache=False,
        fake=FakeConfig(token_delay_s=0.002),
        **more,
    )


def ask(
    engine: Engine, prompt: tuple[int, ...] = PROMPT, stop: tuple[int, ...] = (), **sampling: float | None
) -> Response:
    return generate(engine, [Request("one", prompt, Sampling(**{"max_tokens": 8, **sampling}), stop)])[0]  # type: ignore[arg-type]


def until_finished(engine: Engine, request_id: str, patience_s: float = 20.0) -> list[TokenEvent]:
    seen: list[TokenEvent] = []
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        seen += [e for e in engine.poll(0.2) if e.request_id == request_id]
        if seen and seen[-1].finish:
            return seen
    raise AssertionError(f"{request_id} did not end: {seen}")


def until_ended(engine: Engine, count: int) -> list[TokenEvent]:
    seen: list[TokenEvent] = []
    deadline = time.monotonic() + 20
    while sum(e.finish is not None for e in seen) < count and time.monotonic() < deadline:
        seen += engine.poll(0.2)
    return seen


def test_it_is_an_engine_and_says_what_it_can(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert engine.name in {NAMES.get(kind, kind) for kind in KINDS}
    assert engine.capabilities.max_context_tokens == CONTEXT
    assert engine.capabilities.max_running == RUNNING


def test_it_ends_with_length_after_exactly_max_tokens(engine: Engine) -> None:
    for wanted in (1, 2, 9):
        response = ask(engine, max_tokens=wanted)
        assert (response.finish, len(response.token_ids)) == ("length", wanted)


def test_a_stop_id_ends_the_answer_and_is_not_part_of_it(engine: Engine) -> None:
    free = ask(engine, max_tokens=8).token_ids
    later = max(i for i, token in enumerate(free) if token not in free[:i])
    stopped = ask(engine, stop=(free[later],), max_tokens=8)
    assert (stopped.finish, stopped.token_ids) == ("stop", free[:later])


def test_without_a_stop_id_nothing_ends_an_answer_early(engine: Engine) -> None:
    """Also where the model's own end token comes up: engines obey the request, not the model file."""
    for seed in range(6):
        response = ask(engine, max_tokens=20, temperature=2.0 if engine.capabilities.sampling else 0.0, seed=seed)
        assert (response.finish, len(response.token_ids)) == ("length", 20)


def test_an_answer_ends_with_length_when_the_context_is_full(engine: Engine) -> None:
    prompt = (PROMPT * 20)[: CONTEXT - 5]
    response = ask(engine, prompt, max_tokens=50)
    assert response.finish == "length"
    assert 1 <= len(response.token_ids) <= 5


@pytest.mark.parametrize("prompt", [(), (PROMPT * 20)[:CONTEXT], (PROMPT * 20)[: CONTEXT + 40]])
def test_a_prompt_that_cannot_be_answered_is_refused_and_says_why(engine: Engine, prompt: tuple[int, ...]) -> None:
    response = ask(engine, prompt)
    assert response.finish == "error"
    assert ("empty" if not prompt else str(CONTEXT)) in (response.error or "")
    assert ask(engine).finish == "length"  # and the engine lives on


def test_greedy_answers_repeat(engine: Engine) -> None:
    assert ask(engine, max_tokens=16).token_ids == ask(engine, max_tokens=16).token_ids


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(engine: Engine) -> None:
    if not engine.capabilities.seed:
        pytest.skip("declares no seed")
    drawn = [ask(engine, max_tokens=16, temperature=1.0, seed=seed).token_ids for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_top_k_1_is_greedy_at_any_temperature(engine: Engine) -> None:
    if not engine.capabilities.sampling or engine.name == "fake":
        pytest.skip("draws no tokens from a distribution")
    assert ask(engine, temperature=2.0, top_k=1, seed=1).token_ids == ask(engine).token_ids


def test_answers_together_are_the_answers_alone(engine: Engine) -> None:
    """Batching must not change what a model says: float32 and a margin no rounding reaches."""
    requests = [Request(f"r{i}", PROMPT[i:] + PROMPT[: i + 1], Sampling(max_tokens=12)) for i in range(2 * RUNNING)]
    together = generate(engine, requests, concurrency=2 * RUNNING)
    alone = generate(engine, requests, concurrency=1)
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.request_id for r in together] == [r.id for r in requests]


def test_a_cancelled_request_ends_soon_and_frees_its_place(engine: Engine) -> None:
    for i in range(RUNNING):  # without cancelling, these would block the engine for long
        engine.submit(Request(f"long{i}", PROMPT, Sampling(max_tokens=200, temperature=0.0)))
    for i in range(RUNNING):
        engine.cancel(f"long{i}")
    finishes = {e.request_id: e.finish for e in until_ended(engine, RUNNING) if e.finish}
    assert set(finishes.values()) == {"cancelled"}
    assert ask(engine).finish == "length"


def test_cancelling_one_that_has_begun_leaves_the_others_their_answers(engine: Engine) -> None:
    requests = [Request(f"r{i}", PROMPT[i:] + PROMPT[: i + 1], Sampling(max_tokens=40)) for i in range(RUNNING)]
    alone = {r.request_id: r.token_ids for r in generate(engine, requests, concurrency=1)}
    for request in requests:
        engine.submit(request)
    seen: list[TokenEvent] = []
    deadline = time.monotonic() + 20
    while len({e.request_id for e in seen if e.token_ids}) < RUNNING and time.monotonic() < deadline:
        seen += engine.poll(0.2)
    engine.cancel("r0")  # the others move up
    seen += until_ended(engine, RUNNING - sum(e.finish is not None for e in seen))
    made = {r.id: tuple(t for e in seen if e.request_id == r.id for t in e.token_ids) for r in requests}
    assert {name: made[name] for name in list(made)[1:]} == {name: alone[name] for name in list(alone)[1:]}
    assert made["r0"] == alone["r0"][: len(made["r0"])]


def test_a_waiting_request_can_be_cancelled(engine: Engine) -> None:
    for i in range(RUNNING):
        engine.submit(Request(f"busy{i}", PROMPT, Sampling(max_tokens=200)))
    engine.submit(Request("waiting", PROMPT, Sampling(max_tokens=8)))
    engine.cancel("waiting")
    for i in range(RUNNING):
        engine.cancel(f"busy{i}")
    seen = until_ended(engine, RUNNING + 1)
    last = {e.request_id: e.finish for e in seen if e.finish}
    assert last["waiting"] == "cancelled"
    assert len(last) == RUNNING + 1


def test_cancelling_an_unknown_id_does_nothing(engine: Engine) -> None:
    engine.cancel("never-seen")
    assert ask(engine).finish == "length"


def test_an_id_can_be_used_again_but_not_twice_at_once(engine: Engine) -> None:
    assert ask(engine).token_ids == ask(engine).token_ids
    slow = Request("twice", PROMPT, Sampling(max_tokens=200))
    engine.submit(slow)
    with pytest.raises(ServeError, match="already in flight"):
        engine.submit(slow)
    engine.cancel("twice")
    until_finished(engine, "twice")


def test_without_logprobs_the_answer_is_the_same(engine: Engine) -> None:
    asked, plain = (Sampling(max_tokens=12, logprobs=wanted) for wanted in (True, False))
    first, second = generate(engine, [Request("with", PROMPT, asked), Request("without", PROMPT, plain)], concurrency=1)
    assert second.token_ids == first.token_ids
    assert second.finish == first.finish
    assert second.logprobs in ((), first.logprobs)


def test_logprobs_belong_to_the_tokens(engine: Engine) -> None:
    response = ask(engine, max_tokens=12)
    if not engine.capabilities.logprobs:
        assert response.logprobs == ()
        return
    if response.logprobs:  # llamacpp leaves them out where a token ends inside a character
        assert len(response.logprobs) == len(response.token_ids)
        assert all(value <= 0 for value in response.logprobs)
    if engine.capabilities.score and response.logprobs:
        scored = engine.score([(PROMPT + response.token_ids, len(PROMPT))])[0]
        assert scored == pytest.approx(response.logprobs, abs=1e-4)


def test_score_works_where_it_is_declared_and_is_refused_elsewhere(engine: Engine) -> None:
    sequences = [(PROMPT, 1), (PROMPT[:10], 9)]
    if not engine.capabilities.score:
        with pytest.raises(ServeError):
            engine.score(sequences)
        return
    scores = engine.score(sequences)
    assert [len(s) for s in scores] == [len(PROMPT) - 1, 1]
    assert scores[1][0] == pytest.approx(scores[0][8], abs=1e-4)


def test_many_more_requests_than_places_all_end(engine: Engine) -> None:
    requests = [Request(f"m{i}", PROMPT[i % 8 :], Sampling(max_tokens=1 + i % 5)) for i in range(5 * RUNNING)]
    responses = generate(engine, requests, concurrency=100)
    assert [(r.finish, len(r.token_ids)) for r in responses] == [("length", 1 + i % 5) for i in range(5 * RUNNING)]
    assert all(0 <= r.first_token_s <= r.total_s for r in responses)


def test_after_close_nothing_is_accepted_and_nothing_comes(fresh: Engine) -> None:
    fresh.submit(Request("left-behind", PROMPT, Sampling(max_tokens=200)))
    fresh.close()
    assert fresh.poll(0.05) == []
    with pytest.raises(ServeError, match="closed"):
        fresh.submit(replace(Request("late", PROMPT), sampling=Sampling(max_tokens=1)))
    fresh.cancel("left-behind")
    fresh.close()
