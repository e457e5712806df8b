"""What engines know about themselves is true: room in use, prompt tokens found in the prefix cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_gguf import tiny_gguf
from tuneloop.engines import EngineConfig, EngineProcess, EngineStats, ReportsStats, create, generate
from tuneloop.models import open_bundle
from tuneloop.types import Request, Sampling

PROMPT = tuple(range(40, 100))
CONTEXT, RUNNING = 256, 2


@pytest.fixture(scope="module", params=["fake", "transformers", "llamacpp"])
def engine(request: pytest.FixtureRequest, tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    pytest.importorskip("transformers", reason="the tiny models need the train extra")
    if request.param == "llamacpp":
        pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")
        bundle = open_bundle(tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny"))
    else:
        bundle = open_bundle(tiny("llama", "chatml"))
    made = create(EngineConfig(name=request.param, max_running=RUNNING, context_tokens=CONTEXT, threads=1), bundle)
    yield made
    made.close()


def test_room_is_held_while_a_request_runs_and_free_after(engine: ReportsStats) -> None:
    assert engine.stats().kv_cache_usage == 0.0
    engine.submit(Request("r", PROMPT, Sampling(max_tokens=40)))  # type: ignore[attr-defined]
    seen, ended = [], False
    while not ended:
        ended = any(e.finish for e in engine.poll(1.0))  # type: ignore[attr-defined]
        seen.append(engine.stats().kv_cache_usage)
    room = CONTEXT * RUNNING
    assert len(PROMPT) / room <= max(seen) <= (len(PROMPT) + 40) / room
    deadline = time.monotonic() + 5
    while engine.stats().kv_cache_usage:
        assert time.monotonic() < deadline


def test_a_prompt_that_comes_again_is_found(engine: ReportsStats) -> None:
    before = engine.stats()
    n = 4
    for i in range(n):
        generate(engine, [Request(f"again{i}", PROMPT, Sampling(max_tokens=2))])  # type: ignore[arg-type]
    after = engine.stats()
    assert (before.prefix_cache_queries, before.prefix_cache_hits) != (None, None)
    assert after.prefix_cache_queries - before.prefix_cache_queries == n * len(PROMPT)  # type: ignore[operator]
    found = after.prefix_cache_hits - before.prefix_cache_hits  # type: ignore[operator]
    assert len(PROMPT) - 1 <= found <= n * len(PROMPT)


def test_the_process_tells_its_parent_and_a_new_one_begins_at_nothing() -> None:
    with EngineProcess(EngineConfig(name="fake"), None, lambda _: None).start() as process:
        for i in range(2):
            process.submit(Request(f"r{i}", PROMPT))
        deadline = time.monotonic() + 10
        while process.stats.prefix_cache_queries != 1 + 2 * len(PROMPT):  # 1: the warm-up's
            assert time.monotonic() < deadline, process.stats
            time.sleep(0.05)
        assert process.stats == EngineStats(0.0, 1 + 2 * len(PROMPT), len(PROMPT), 0)
        process._child._process.kill()  # type: ignore[union-attr]
        while process.restarts == 0 or not process.ready:
            assert time.monotonic() < deadline + 20
            time.sleep(0.05)
        assert process.stats.prefix_cache_queries in (None, 1)


def test_llamacpps_own_timings_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp says at the end of a stream how much of a prompt it found (``cache_n``) and computed (``prompt_n``)."""
    pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")
    from tuneloop.engines.llamacpp_piece import Piece

    said: dict[str, tuple[int, int]] = {}
    on_chunk = Piece.on_chunk

    def listen(self: Piece, chunk: dict[str, dict[str, dict[str, int]]]) -> bool:
        if timings := chunk.get("__verbose", {}).get("timings"):
            said.setdefault(self.job.request.id, (timings["cache_n"], timings["prompt_n"]))
        return on_chunk(self, chunk)

    monkeypatch.setattr(Piece, "on_chunk", listen)
    config = EngineConfig(name="llamacpp", max_running=2, context_tokens=CONTEXT, threads=1)
    engine = create(config, open_bundle(tiny_gguf(tmp_path / "tiny")))
    other = tuple(range(200, 230))
    prompts = (PROMPT, PROMPT, (*PROMPT[:30], *other), (*PROMPT, 7, 8), other, (*other, 9))
    compared = []
    try:
        for i, prompt in enumerate(prompts):
            before = engine.stats().prefix_cache_hits  # type: ignore[attr-defined]
            generate(engine, [Request(str(i), prompt, Sampling(max_tokens=3))])
            ours = engine.stats().prefix_cache_hits - before  # type: ignore[attr-defined]
            if sum(said.get(str(i), ())) == len(prompt):  # a stream that was left at a gap has no end, see the engine
                compared.append((i, ours, said[str(i)][0]))
    finally:
        engine.close()
    assert len(compared) >= 3
    assert [ours for _, ours, _ in compared] == [theirs for _, _, theirs in compared], compared
    assert any(ours > 0 for _, ours, _ in compared)
