"""What is special about OpenVINO; the rest is in tests/contract."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.invariants.test_fast_engine_is_naive_generate import naive
from tests.tiny_gguf import LAYERS, tiny_gguf
from tuneloop.engines import Engine, EngineConfig, create, generate
from tuneloop.errors import ModelError
from tuneloop.models import Bundle, load_model, open_bundle
from tuneloop.types import Request, Response, Sampling

if importlib.util.find_spec("openvino_genai") is None:
    pytest.skip("pip install 'tuneloop[openvino]'", allow_module_level=True)

torch = pytest.importorskip("torch", reason="the plain model needs the train extra")

PROMPT = tuple(range(40, 64))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny", matrices="f16"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Engine]:
    made = create(EngineConfig(name="openvino", max_running=4, context_tokens=512, threads=1, dtype="float32"), bundle)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> torch.nn.Module:
    return load_model(bundle, device="cpu")


def prompts(lengths: list[int]) -> list[tuple[int, ...]]:
    rng = random.Random(3)
    return [tuple(rng.randrange(10, 500) for _ in range(n)) for n in lengths]


def one(engine: Engine, **sampling: float) -> Response:
    return generate(engine, [Request("one", PROMPT, Sampling(**sampling))])[0]  # type: ignore[arg-type]


def test_greedy_answers_in_float32_are_those_of_recomputing_everything(engine: Engine, model: torch.nn.Module) -> None:
    """Also for a prompt longer than a step (256 tokens), beside others, and where the cached prefix is used again."""
    given = prompts([3, 40, 300, 17, 1, 33])
    given.append(given[2] + (11, 12))
    requests = [Request(f"r{i}", p, Sampling(max_tokens=6 + i)) for i, p in enumerate(given)]
    answers = generate(engine, requests, concurrency=6)
    assert len({a.token_ids for a in answers}) > 4, "answers that are all alike prove nothing"
    for request, answer in zip(requests, answers, strict=True):
        assert list(answer.token_ids) == naive(model, request.prompt_ids, request.sampling.max_tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.7])
def test_logprobs_are_those_of_the_plain_model_also_of_drawn_tokens(
    engine: Engine, model: torch.nn.Module, temperature: float
) -> None:
    answer = one(engine, max_tokens=12, temperature=temperature, top_k=5, top_p=0.9, seed=3)
    ids = torch.tensor([PROMPT + answer.token_ids])
    with torch.no_grad():
        logp = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    expected = [float(logp[len(PROMPT) - 1 + i, token]) for i, token in enumerate(answer.token_ids)]
    assert answer.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_drawn_tokens_follow_the_distribution(engine: Engine, model: torch.nn.Module, temperature: float) -> None:
    """The first token of 400 answers against the model's own top probabilities: within four standard errors."""
    count = 400
    requests = [Request(f"r{i}", PROMPT, Sampling(1, temperature, seed=i)) for i in range(count)]
    drawn = [a.token_ids[0] for a in generate(engine, requests, concurrency=8)]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    p = (logits / temperature).softmax(-1)
    top = p.topk(60)
    share = sum(t in set(top.indices.tolist()) for t in drawn) / count
    mass = float(top.values.sum())
    assert abs(share - mass) < 4 * (mass * (1 - mass) / count) ** 0.5


def test_the_default_precision_is_close_to_float32(bundle: Bundle, engine: Engine) -> None:
    fast = create(EngineConfig(name="openvino", max_running=4, context_tokens=512, threads=1), bundle)
    try:
        exact, quick = (generate(e, [Request("r", PROMPT, Sampling(1))])[0] for e in (engine, fast))
    finally:
        fast.close()
    assert quick.logprobs == pytest.approx(exact.logprobs, abs=0.05)


def test_the_end_token_of_the_file_does_not_end_an_answer_that_does_not_name_it(bundle: Bundle, engine: Engine) -> None:
    end = json.loads((bundle.path / "tokenizer_config.json").read_text())["eos_token"]
    vocabulary = {
        t["content"]: t["id"] for t in json.loads((bundle.path / "tokenizer.json").read_text())["added_tokens"]
    }
    draws = [
        generate(engine, [Request("r", PROMPT, Sampling(480, 5.0, seed=seed), stop_ids=stop)])[0]
        for seed in range(4)
        for stop in ((), (599,))
    ]
    met = [a for a in draws if vocabulary[end] in a.token_ids]
    assert met, "no answer met the end token: this test shows nothing"
    assert all(a.token_ids[-1] != vocabulary[end] or a.finish == "length" for a in met)


def test_a_cancelled_request_frees_its_place_within_one_step(engine: Engine) -> None:
    for i in range(4):
        engine.submit(Request(f"long{i}", PROMPT, Sampling(200)))
    while not any(e.token_ids for e in engine.poll(1.0)):
        pass
    for i in range(4):
        engine.cancel(f"long{i}")
    engine.submit(Request("next", PROMPT, Sampling(1)))
    events = engine.poll(1.0) + engine.poll(1.0)
    assert [e.finish for e in events if e.request_id == "next"][-1:] == ["length"]
    assert all(e.finish == "cancelled" for e in events if e.request_id != "next")


@pytest.mark.parametrize("change", ["rope_freqs", "rope_scaling"])
def test_scaled_rotary_frequencies_are_refused_because_openvino_ignores_them(tmp_path: Path, change: str) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    if change == "rope_freqs":
        writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))
    else:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="rotary"):
        create(EngineConfig(name="openvino"), open_bundle(tmp_path))


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "deepseek2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="deepseek2"):
        create(EngineConfig(name="openvino"), open_bundle(tmp_path))


def test_matrices_that_it_cannot_read_are_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Unsupported quantization type") as caught:
        create(EngineConfig(name="openvino"), open_bundle(tiny_gguf(tmp_path / "f32")))
    assert "llamacpp" in str(caught.value)


def test_a_model_that_is_no_gguf_is_refused(tiny: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="reads GGUF"):
        create(EngineConfig(name="openvino"), open_bundle(tiny("llama", "chatml")))


def test_openvino_has_no_telemetry_here() -> None:
    code = (
        "import sys; from tuneloop.engines.openvino import _no_telemetry\n"
        "with _no_telemetry(): import openvino_genai\n"
        "print([m for m in sys.modules if m.startswith('openvino_telemetry')], 'openvino.tools.ovc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]")


def test_headers_name_all_layers(bundle: Bundle) -> None:
    from tuneloop.engines.gguf_header import read_header

    header = read_header(bundle.gguf_file)
    assert header.architecture == "llama"
    assert len([t for t in header.tensors if t.endswith("attn_q.weight")]) == LAYERS


def test_a_signal_after_the_model_is_closed_is_handled(bundle: Bundle) -> None:
    """OpenVINO frees the signal stack that it gave the loading thread; the next signal then ended the process."""
    script = (
        "import signal, sys, threading\n"
        "from tuneloop.engines import EngineConfig, create\n"
        "from tuneloop.models import open_bundle\n"
        "engine = create(EngineConfig(name='openvino', context_tokens=64, threads=1), open_bundle(sys.argv[1]))\n"
        "closer = threading.Thread(target=engine.close)\n"
        "closer.start()\n"
        "closer.join()\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: print('handled', number))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle.path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled 15\n"), done.stderr
