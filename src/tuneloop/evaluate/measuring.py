"""The metrics of the engine rather than of the text: latency, tokens a second, perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuneloop.chat import Chat
from tuneloop.engines import Engine
from tuneloop.evaluate.artifact import LIKELIHOODS
from tuneloop.evaluate.asking import SINGLE, TOGETHER, Row, key
from tuneloop.evaluate.journal import Journal
from tuneloop.progress import Progress
from tuneloop.rundir import RunDir
from tuneloop.stats import bootstrap_sums, median
from tuneloop.types import Interval, Record

if TYPE_CHECKING:
    import numpy as np

SCORE_BATCH = 16
WINDOWS = 20
"""Throughput is counted in so many stretches of a session, whose spread gives the interval."""
MIN_TOGETHER = 16
"""With fewer questions asked together, the speed of the questions asked alone is reported instead."""


def latency(rows: Sequence[Row]) -> dict[str, Interval]:
    """Median seconds to the first token and to the end of an answer, one question at a time, engine warm."""
    alone = [r for r in rows if r["phase"] == SINGLE]
    if not alone:
        return {}
    return {
        "latency_p50_s": median([r["total_s"] for r in alone]),
        "first_token_p50_s": median([r["first_token_s"] for r in alone]),
    }


def throughput(rows: Sequence[Row], resamples: int, seed: int) -> tuple[Interval | None, str]:
    """Generated tokens a second, and how it was measured."""
    together = [r for r in rows if r["phase"] == TOGETHER]
    windows, how = _windows(together), "all questions together"
    if len(together) < MIN_TOGETHER:
        windows = [(len(r["token_ids"]), r["total_s"]) for r in rows if r["phase"] == SINGLE]
        how = "one question at a time"
    if not windows or not sum(s for _, s in windows):
        return None, "no answer was timed"
    table = _array(windows)
    return bootstrap_sums(table, lambda s: s[:, 0] / s[:, 1], resamples=resamples, seed=seed), how


def _windows(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """(tokens, seconds) of equal stretches of each session. An answer's tokens are spread over the time it took, so that
    answers which end in the same instant do not look like a burst."""
    out = []
    for session in sorted({r["session"] for r in rows}):
        here = [r for r in rows if r["session"] == session]
        count, end = max(1, min(WINDOWS, len(here) // 4)), max(r["arrived_s"] for r in here)
        width = end / count
        tokens = [0.0] * count
        for r in here:
            start = max(0.0, r["arrived_s"] - r["total_s"])
            span = max(r["arrived_s"] - start, 1e-9)
            for i in range(count):
                shared = min(r["arrived_s"], (i + 1) * width) - max(start, i * width)
                tokens[i] += len(r["token_ids"]) * max(0.0, shared) / span
        out += [(t, width) for t in tokens]
    return out


def _array(values: Sequence[Sequence[float]]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.array(values, dtype=float)


def perplexity(
    engine: Engine, chat: Chat, records: Sequence[Record], label: str, out: RunDir, resamples: int, seed: int
) -> tuple[Interval | None, str]:
    """exp(mean negative log-likelihood a token) of the reference answers, end-of-turn token included, given the prompts.

    Token-weighted; resampled by row, since the tokens of an answer are not independent.

    Returns:
        The perplexity, or None; and what is to be said about it.
    """
    if not engine.capabilities.score:
        return None, f"the engine {engine.name} cannot score given text"
    sequences = {r.id: _sequence(chat, r) for r in records if len(r.prompt) < len(r.messages)}
    limit = engine.capabilities.max_context_tokens
    fits = {i: s for i, s in sequences.items() if limit is None or len(s[0]) <= limit}
    note = f"{len(records) - len(fits)} rows do not fit the context" if len(fits) < len(records) else ""
    if not fits:
        return None, note
    with (
        Journal(out / LIKELIHOODS, {i: key(*s) for i, s in fits.items()}) as journal,
        Progress(f"{label}: perplexity", len(fits), "rows") as progress,
    ):
        progress.resume_at(len(journal.rows))
        todo = sorted((i for i in fits if i not in journal.rows), key=lambda i: len(fits[i][0]))
        for start in range(0, len(todo), SCORE_BATCH):
            batch = todo[start : start + SCORE_BATCH]
            for i, logprobs in zip(batch, engine.score([fits[i] for i in batch]), strict=True):
                journal.append({"id": i, "key": key(*fits[i]), "logprob": sum(logprobs), "tokens": len(logprobs)})
            progress.update(len(batch))
        table = _array([(-journal.rows[i]["logprob"], journal.rows[i]["tokens"]) for i in fits])
    return _exp_mean(table, resamples, seed), note


def _exp_mean(table: np.ndarray[Any, Any], resamples: int, seed: int) -> Interval:
    import numpy as np

    return bootstrap_sums(table, lambda s: np.exp(s[:, 0] / s[:, 1]), resamples=resamples, seed=seed)


def _sequence(chat: Chat, record: Record) -> tuple[tuple[int, ...], int]:
    prompt = chat.prompt_ids(record.prompt, record.tools)
    shown = chat.render(record.prompt, generation=True, tools=record.tools)
    answer = chat.answer_ids(record.messages[len(record.prompt)], shown)
    return prompt + answer, len(prompt)
