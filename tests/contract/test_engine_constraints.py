"""Penalties, biases, alternatives and grammars: every engine that declares one keeps it, against independent computations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# pytest finds fixtures by their names here (F401), and a test's argument of such a name hides the import (F811).
from tests.contract.test_engines import PROMPT, RUNNING, ask, bundles, engine, server  # noqa: F401
from tests.tiny import tiny_tokenizer
from tests.tiny_gguf import tiny_gguf
from tuneloop.engines import REFUSED, Engine, EngineConfig, create, generate
from tuneloop.engines.minimal_json import minimal
from tuneloop.errors import DataError
from tuneloop.models import Bundle, open_bundle
from tuneloop.types import Grammar, Request, Sampling, TokenEvent

jsonschema = pytest.importorskip("jsonschema", reason="pip install 'tuneloop[structured]'")
pytest.importorskip("llguidance", reason="pip install 'tuneloop[structured]'")

PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["北京", "上海"]}, "zip": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "zip"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": {
        "type": "object",
        "properties": {"place": PLACE, "open": {"type": "boolean"}},
        "required": ["place", "open"],
        "additionalProperties": False,
    },
    "chinese enum": {"enum": ["挂失银行卡", "转账失败"]},
    "array": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 3},
    "number": {"type": "integer", "minimum": 100, "maximum": 999},
    "string": {"type": "object", "properties": {"说明": {"type": "string", "maxLength": 8}}, "required": ["说明"],
               "additionalProperties": False},
    "reference": {"$defs": {"p": PLACE}, "type": "array", "items": {"$ref": "#/$defs/p"}, "minItems": 1, "maxItems": 2},
    "choice": {"anyOf": [{"type": "null"}, {"const": "卡"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny_tokenizer("chatml")


def constrained(name: str, **sampling: Any) -> Sampling:
    return Sampling(
        **{"max_tokens": 200, "grammar": Grammar(json.dumps(SCHEMAS[name], ensure_ascii=False)), **sampling}
    )


def answer(engine: Engine, sampling: Sampling) -> tuple[str, tuple[int, ...]]:  # noqa: F811
    response = generate(engine, [Request("g", PROMPT, sampling)])[0]
    return response.finish, response.token_ids


def need(engine: Engine, capability: str) -> None:  # noqa: F811
    if not getattr(engine.capabilities, capability):
        pytest.skip(f"declares no {capability}")


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_is_what_its_schema_allows(engine: Engine, words: Any, name: str, temperature: float) -> None:  # noqa: F811
    need(engine, "grammar")
    for seed in range(2):
        finish, ids = answer(engine, constrained(name, temperature=temperature, seed=seed))
        text = words.decode(ids)
        assert finish == "stop", text
        jsonschema.validate(json.loads(text), SCHEMAS[name])


def test_what_stands_around_the_json_is_written_as_it_is_given(engine: Engine, words: Any) -> None:  # noqa: F811
    need(engine, "grammar")
    before, after = '卡:\n"<tool_call>\\\n', "\n</tool_call> 完"
    finish, ids = answer(engine, Sampling(200, grammar=Grammar(json.dumps(PLACE), before, after)))
    text = words.decode(ids)
    assert (finish, text.startswith(before), text.endswith(after)) == ("stop", True, True)
    jsonschema.validate(json.loads(text.removeprefix(before).removesuffix(after)), PLACE)


def test_a_control_token_beside_the_json_is_that_token(engine: Engine, words: Any) -> None:  # noqa: F811
    need(engine, "grammar")
    _, ids = answer(engine, Sampling(200, grammar=Grammar('{"const": 1}', "<|im_start|>")))
    assert ids[0] == words.convert_tokens_to_ids("<|im_start|>")
    assert words.decode(ids[1:]) == "1"


def test_the_empty_schema_is_any_object(engine: Engine, words: Any) -> None:  # noqa: F811
    need(engine, "grammar")
    finish, ids = answer(engine, Sampling(60, grammar=Grammar("{}")))
    text = words.decode(ids)
    assert text.startswith("{")
    assert finish == "length" or isinstance(json.loads(text), dict)


def test_an_answer_that_is_cut_is_a_beginning_and_says_length(engine: Engine, words: Any) -> None:  # noqa: F811
    need(engine, "grammar")
    whole = answer(engine, constrained("nested"))[1]
    finish, ids = answer(engine, constrained("nested", max_tokens=5))
    assert finish == "length"
    assert ids == whole[: len(ids)]
    assert len(ids) <= 5


def test_greedy_answers_with_a_grammar_repeat(engine: Engine) -> None:  # noqa: F811
    need(engine, "grammar")
    assert answer(engine, constrained("nested")) == answer(engine, constrained("nested"))


def test_answers_with_and_without_a_grammar_run_side_by_side(engine: Engine) -> None:  # noqa: F811
    need(engine, "grammar")
    requests = [
        Request(f"{i}", PROMPT[i:], constrained(list(SCHEMAS)[i % 3]) if i % 2 else Sampling(max_tokens=12))
        for i in range(2 * RUNNING)
    ]
    together = generate(engine, requests, concurrency=2 * RUNNING)
    alone = generate(engine, requests, concurrency=1)
    assert [(r.finish, r.token_ids) for r in together] == [(r.finish, r.token_ids) for r in alone]


def test_a_request_with_a_grammar_can_be_cancelled(engine: Engine) -> None:  # noqa: F811
    need(engine, "grammar")
    engine.submit(Request("gone", PROMPT, constrained("string")))
    engine.cancel("gone")
    seen: list[TokenEvent] = []
    while not (seen and seen[-1].finish):
        seen += engine.poll(0.2)
    assert seen[-1].finish in ("cancelled", "stop")  # a short answer may have been faster
    assert ask(engine).finish == "length"


@pytest.mark.parametrize("schema", ['{"enum": []}', '{"type": "nonsense"}', '{"$ref": "#/nowhere"}'])
def test_a_schema_that_cannot_be_kept_is_an_error_and_the_engine_lives_on(engine: Engine, schema: str) -> None:  # noqa: F811
    need(engine, "grammar")
    response = generate(engine, [Request("bad", PROMPT, Sampling(8, grammar=Grammar(schema)))])[0]
    assert response.finish == "error"
    assert response.error
    assert ask(engine).finish == "length"


def test_a_pattern_that_leads_too_far_is_kept_to_or_blamed_on_the_schema(engine: Engine) -> None:  # noqa: F811
    need(engine, "grammar")
    grammar = Grammar('{"type": "string", "pattern": "^a{1000000}$"}')
    response = generate(engine, [Request("far", PROMPT, Sampling(8, grammar=grammar))])[0]
    blamed = (REFUSED, "Internal server error")  # the latter is all that a real vLLM says
    assert response.finish == "length" or (response.error or "").startswith(blamed)
    assert ask(engine).finish == "length"


def test_a_bias_of_minus_100_bans_a_token_and_100_forces_it(engine: Engine) -> None:  # noqa: F811
    need(engine, "logit_bias")
    free = ask(engine, max_tokens=8).token_ids
    banned = generate(engine, [Request("b", PROMPT, Sampling(8, logit_bias=((free[0], -100.0),)))])[0].token_ids
    forced = generate(engine, [Request("f", PROMPT, Sampling(8, logit_bias=((77, 100.0),)))])[0].token_ids
    assert free[0] not in banned
    assert forced == (77,) * 8


def test_logprobs_are_the_models_own_whatever_moves_the_choice(engine: Engine) -> None:  # noqa: F811
    """The token is chosen by bias; its probability is what the model gave it."""
    need(engine, "logit_bias")
    if not engine.capabilities.score:
        pytest.skip("cannot score")
    moved = generate(engine, [Request("m", PROMPT, Sampling(6, logit_bias=((77, 100.0),)))])[0]
    scored = engine.score([(PROMPT + moved.token_ids, len(PROMPT))])[0]
    assert moved.logprobs == pytest.approx(scored, abs=1e-4)


def test_alternatives_come_best_first_with_the_chosen_token_among_them(engine: Engine) -> None:  # noqa: F811
    need(engine, "top_logprobs")
    engine.submit(Request("t", PROMPT, Sampling(max_tokens=6, top_logprobs=3)))
    events: list[TokenEvent] = []
    while not (events and events[-1].finish):
        events += engine.poll(0.2)
    reported = [(e.token_ids[0], e.logprobs[0], e.top[0]) for e in events if e.token_ids and e.logprobs]
    assert reported
    for token, logprob, top in reported:
        assert len(top) == 3
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
        assert top[0] == (token, pytest.approx(logprob, abs=1e-6))  # greedy: the best is the chosen one


def greedy_by_hand(bundle: Bundle, sampling: Sampling) -> tuple[list[int], list[list[tuple[int, float]]]]:
    """transformers' model asked anew for every token, and OpenAI's formula written out:
    mu[j] -> mu[j] - c[j] * frequency_penalty - float(c[j] > 0) * presence_penalty."""
    import torch

    from tuneloop.models import load_model

    model = load_model(bundle, dtype="float32", device="cpu")
    made: list[int] = []
    tops: list[list[tuple[int, float]]] = []
    with torch.inference_mode():
        for _ in range(sampling.max_tokens):
            mu = model(torch.tensor([[*PROMPT, *made]])).logits[0, -1].float()
            best = mu.log_softmax(-1).topk(3)
            tops.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            for token, bias in sampling.logit_bias:
                mu[token] += bias
            for j in set(made):
                c = made.count(j)
                mu[j] -= c * sampling.frequency_penalty + float(c > 0) * sampling.presence_penalty
            made.append(int(mu.argmax()))
    return made, tops


MOVED = {
    "presence": {"presence_penalty": 0.8},
    "frequency": {"frequency_penalty": 0.3},
    "both, negative": {"presence_penalty": -0.1, "frequency_penalty": -0.2},
    "bias": {"logit_bias": tuple((token, 3.0) for token in range(100, 140))},
}


@pytest.mark.parametrize("how", MOVED)
@pytest.mark.parametrize("kind", ["transformers", "llamacpp"])
def test_greedy_answers_are_those_of_the_formula(
    kind: str,
    how: str,
    tiny: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if kind == "llamacpp":
        pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")
        bundle = open_bundle(tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny"))
    else:
        bundle = open_bundle(tiny("llama", "chatml"))
    sampling = Sampling(max_tokens=20, top_logprobs=3, **MOVED[how])  # type: ignore[arg-type]
    made = create(EngineConfig(name=kind, max_running=2, context_tokens=256, threads=1, prefix_cache=False), bundle)
    try:
        if "penalty" in str(MOVED[how]) and not made.capabilities.penalties:
            pytest.skip("declares no penalties")
        made.submit(Request("golden", PROMPT, sampling))
        events: list[TokenEvent] = []
        while not (events and events[-1].finish):
            events += made.poll(0.2)
    finally:
        made.close()
    tokens, tops = greedy_by_hand(bundle, sampling)
    assert [t for e in events for t in e.token_ids] == tokens
    assert tokens != greedy_by_hand(bundle, Sampling(max_tokens=20))[0]  # or this shows nothing
    for at, event in enumerate(e for e in events if e.token_ids):
        for (token, value), (expected, logprob) in zip(event.top[0] if event.top else (), tops[at], strict=False):
            assert (token, value) == (expected, pytest.approx(logprob, abs=1e-2))  # llama.cpp caches in 16 bits


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_fake_engines_json_is_valid(name: str) -> None:
    jsonschema.validate(json.loads(minimal(json.dumps(SCHEMAS[name]))), SCHEMAS[name])


@pytest.mark.parametrize(
    "schema",
    [{"enum": []}, {"type": "integer", "minimum": 3, "maximum": 2}, {"$ref": "#"}, {"type": "string", "pattern": "a"}],
)
def test_the_fake_engine_refuses_what_it_cannot_write(schema: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        minimal(json.dumps(schema))
