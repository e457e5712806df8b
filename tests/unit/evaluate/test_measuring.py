from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluate.conftest import CharChat, TableEngine, record
from tuneloop.engines import Capabilities
from tuneloop.evaluate import measuring
from tuneloop.rundir import RunDir


def row(phase: str, total_s: float, tokens: int = 10, arrived_s: float = 0.0, session: int = 1) -> dict[str, Any]:
    return {
        "phase": phase, "total_s": total_s, "first_token_s": total_s / 2, "token_ids": [1] * tokens,
        "arrived_s": arrived_s, "session": session,
    }  # fmt: skip


def test_latency_is_the_median_of_the_questions_asked_alone() -> None:
    rows = [row("warm-up", 9.0), *(row("single", t) for t in (1.0, 2.0, 4.0)), row("together", 0.1)]
    found = measuring.latency(rows)
    assert found["latency_p50_s"].value == 2.0
    assert found["first_token_p50_s"].value == 1.0


def test_throughput_counts_tokens_over_wall_time() -> None:
    """40 answers of 10 tokens, one every 0.1 s: 100 tokens/s, in every stretch."""
    rows = [row("together", 0.1, arrived_s=0.1 * (i + 1)) for i in range(40)]
    speed, how = measuring.throughput(rows, 200, 0)
    assert speed is not None
    assert (speed.value, speed.low, speed.high) == pytest.approx((100, 100, 100))
    assert how == "all questions together"


def test_the_pause_between_two_sessions_is_not_counted() -> None:
    rows = [row("together", 0.1, arrived_s=0.1 * (i + 1), session=s) for s in (1, 9999) for i in range(8)]
    speed, _ = measuring.throughput(rows, 200, 0)
    assert speed is not None
    assert speed.value == pytest.approx(100)


def test_answers_that_end_together_are_no_burst() -> None:
    """Waves of 8 answers of 10 tokens, each wave 1 s: 80 tokens/s in every stretch, though they arrive at once."""
    rows = [row("together", 1.0, arrived_s=float(i // 8 + 1)) for i in range(40)]
    speed, _ = measuring.throughput(rows, 200, 0)
    assert speed is not None
    assert (speed.value, speed.low, speed.high) == pytest.approx((80, 80, 80))


def test_few_questions_are_timed_one_by_one() -> None:
    speed, how = measuring.throughput([row("single", 0.5), row("single", 1.5)], 200, 0)
    assert speed is not None
    assert (speed.value, how) == (pytest.approx(10.0), "one question at a time")


def test_perplexity_weighs_by_token(tmp_path: Path) -> None:
    """'ab' has 2 tokens of -0.5 and its end of -1, 'c' has one of -0.5 and its end: exp(3.5 / 5)."""
    records = [record(1, "q", "ab", None), record(2, "q", "c", None)]
    engine: Any = TableEngine({})
    chat: Any = CharChat()
    value, note = measuring.perplexity(engine, chat, records, "base", RunDir(tmp_path), 200, 0)
    assert value is not None
    assert value.value == pytest.approx(2.718281828 ** (3.5 / 5))
    assert (value.n, note) == (2, "")


def test_perplexity_is_not_computed_twice(tmp_path: Path) -> None:
    records = [record(1, "q", "ab", None), record(2, "q", "c", None)]
    engine: Any = TableEngine({})
    chat: Any = CharChat()
    first = measuring.perplexity(engine, chat, records[:1], "base", RunDir(tmp_path), 200, 0)
    measuring.perplexity(engine, chat, records, "base", RunDir(tmp_path), 200, 0)
    assert engine.scored == 2
    assert first[0] is not None


def test_an_engine_that_cannot_score_says_so(tmp_path: Path) -> None:
    engine: Any = TableEngine({}, Capabilities(score=False))
    chat: Any = CharChat()
    value, note = measuring.perplexity(engine, chat, [record(1, "q", "a", None)], "x", RunDir(tmp_path), 200, 0)
    assert (value, note) == (None, "the engine table cannot score given text")


def test_rows_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    engine: Any = TableEngine({}, Capabilities(score=True, max_context_tokens=30))
    chat: Any = CharChat()
    records = [record(1, "q", "a", None), record(2, "q" * 50, "a", None)]
    value, note = measuring.perplexity(engine, chat, records, "x", RunDir(tmp_path), 200, 0)
    assert value is not None
    assert (value.n, note) == (1, "1 rows do not fit the context")
