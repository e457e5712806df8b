"""What is special about llama.cpp; the rest is in tests/contract."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_tokenizer
from tests.tiny_gguf import tiny_gguf
from tuneloop.engines import EngineConfig, generate
from tuneloop.models import open_bundle
from tuneloop.types import Request, Sampling

pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")

from tuneloop.engines.llamacpp import LlamaCppEngine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    bundle = open_bundle(tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny"))
    made = LlamaCppEngine(bundle, EngineConfig(max_running=2, context_tokens=256, threads=1))
    yield made
    made.close()


def whole(engine: LlamaCppEngine, prompt: list[int], count: int) -> dict[str, Any]:
    """llama.cpp's own answer without streaming, where it reports every token."""
    body = {"prompt": prompt, "n_predict": count, "temperature": 0.0, "return_tokens": True, "verbose": True}
    return engine._server.handle_completions(body | {"ignore_eos": False})["__verbose"]  # type: ignore[no-any-return]


def test_tokens_inside_a_character_are_not_lost(engine: LlamaCppEngine) -> None:
    """Random models write broken UTF-8 most of the time: llama.cpp's stream leaves most of their tokens out."""
    tokenizer = tiny_tokenizer("chatml")
    partial = [i for t, i in tokenizer.get_vocab().items() if t in ("ä", "å", "ð", "Ĺ")]
    left_out = 0
    for start in range(12):
        prompt = [*range(40 + start, 60 + start), *partial]
        expected = whole(engine, prompt, 24)["tokens"]
        streamed: list[int] = []
        engine._server.handle_completions(
            {"prompt": prompt, "n_predict": 24, "temperature": 0.0, "stream": True, "verbose": True},
            lambda chunk, s=streamed: s.extend(chunk["__verbose"]["tokens"]),
        )
        left_out += len(expected) - len(streamed)
        got = generate(engine, [Request("r", tuple(prompt), Sampling(24))])[0].token_ids
        assert list(got[: len(expected)]) == expected  # ours goes on where llama.cpp ends at its own end token
    assert left_out > 0  # otherwise this test shows nothing


def test_no_token_is_put_in_front_of_the_prompt(engine: LlamaCppEngine) -> None:
    assert whole(engine, [40, 41, 42], 1)["tokens_evaluated"] == 3


def test_the_shell_keeps_its_ctrl_c(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    bundle = open_bundle(tiny_gguf(tmp_path / "tiny"))
    engine = LlamaCppEngine(bundle, EngineConfig(max_running=1, context_tokens=256, threads=1))
    try:
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        engine.close()


def test_it_can_be_closed_at_once(tmp_path: Path) -> None:
    """llama.cpp's loop does not end when it is told so before it has begun; the engine waits for the beginning."""
    bundle = open_bundle(tiny_gguf(tmp_path / "tiny"))
    for _ in range(5):
        LlamaCppEngine(bundle, EngineConfig(max_running=1, context_tokens=256, threads=1)).close()


def test_its_own_http_server_is_closed_to_everybody(engine: LlamaCppEngine) -> None:
    address = engine._server.listening_address
    assert address.startswith("unix://")
    assert not Path(address.removeprefix("unix://")).exists()


def test_it_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = open_bundle(tiny_gguf(tmp_path / "tiny"))
    engine = LlamaCppEngine(bundle, EngineConfig(max_running=1, context_tokens=256, threads=1))
    generate(engine, [Request("r", (40, 41), Sampling(4))])
    engine.close()
    assert capfd.readouterr() == ("", "")
