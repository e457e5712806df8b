"""Records -> requests -> answers on disk. First a few one at a time, for the latency; then the rest together."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from tuneloop.chat import Chat, opens_reasoning
from tuneloop.engines import Engine, generate
from tuneloop.errors import ConfigError, Interrupted, ServeError
from tuneloop.evaluate.artifact import RESPONSES
from tuneloop.evaluate.config import EvaluateConfig
from tuneloop.evaluate.journal import Journal
from tuneloop.progress import log
from tuneloop.rundir import RunDir
from tuneloop.types import Context, Record, Request, Response, Sampling

WARM_UP, SINGLE, TOGETHER = "warm-up", "single", "together"

Row = dict[str, Any]


def sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """At most ``limit`` records with the class shares of the whole, in the order of the split.

    Each class gets its share rounded down; the remaining places go to the largest remainders.
    """
    if limit is None or limit >= len(records):
        return list(records)
    classes: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        classes.setdefault(record.label or "", []).append(i)
    share = {name: limit * len(members) / len(records) for name, members in classes.items()}
    take = {name: int(s) for name, s in share.items()}
    for name in sorted(share, key=lambda c: (take[c] - share[c], c))[: limit - sum(take.values())]:
        take[name] += 1
    draw = random.Random(seed)
    chosen = sorted(i for name in sorted(classes) for i in draw.sample(classes[name], take[name]))
    return [records[i] for i in chosen]


def budget(config: EvaluateConfig, chat: Chat, records: Sequence[Record]) -> int:
    """How many tokens an answer may have: from the references, so that no right answer is cut."""
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    longest, seen, thinks = 0, set[str](), False
    for record in records:
        if len(record.prompt) < len(record.messages) and record.answer not in seen:
            seen.add(record.answer)
            prompt = chat.render(record.prompt, generation=True, tools=record.tools)
            longest = max(longest, len(chat.answer_ids(record.messages[len(record.prompt)], prompt)))
            thinks = thinks or opens_reasoning(prompt)
    return ceil(1.25 * longest) + 8 + (config.reasoning_tokens if thinks else 0)


def requests_for(
    config: EvaluateConfig, chat: Chat, records: Sequence[Record], max_tokens: int, context: Context
) -> dict[str, Request]:
    """One request a record, by record id."""
    out = {}
    for record in records:
        seed = int(hashlib.sha256(f"{config.seed}:{record.id}".encode()).hexdigest()[:8], 16)
        sampling = Sampling(max_tokens, config.temperature, seed=seed if config.temperature else None)
        prompt_ids = chat.prompt_ids(record.prompt, record.tools)
        out[record.id] = Request(record.id, prompt_ids, sampling, chat.stop_ids, context)
    return out


def key(*parts: object) -> str:
    """What an answer depends on besides the model."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def ask(config: EvaluateConfig, engine: Engine, chat: Chat, records: Sequence[Record], requests: Mapping[str, Request],
        label: str, out: RunDir) -> dict[str, Row]:  # fmt: skip
    """Answer every request that responses.jsonl does not answer yet.

    Returns:
        Record id -> row: ``text``, ``reasoning``, ``token_ids``, ``finish``, times, ``phase``, ``error``.

    Raises:
        ServeError: No question could be answered.
    """
    if config.temperature and not engine.capabilities.sampling:
        raise ConfigError(
            f"the engine {engine.name} only takes the most likely token",
            where="evaluate.temperature",
            hint="set it to 0",
        )
    alone = [r.id for r in random.Random(config.seed).sample(list(records), len(records))]
    alone = alone[: config.latency_requests + 1] if config.latency_requests else []
    phases = dict.fromkeys(requests, TOGETHER) | dict.fromkeys(alone, SINGLE) | dict.fromkeys(alone[:1], WARM_UP)
    prompts = {r.id: chat.render(r.prompt, generation=True, tools=r.tools) for r in records}
    failed: dict[str, Row] = {}
    keys = {i: key(r.prompt_ids, r.sampling, r.stop_ids) for i, r in requests.items()}
    with Journal(out / RESPONSES, keys) as journal:
        if journal.rows:
            log(f"  {label}: {len(journal.rows)} of {len(requests)} answers were there already")
        session = round(time.time(), 3)

        def keep(phase: str | None, started: float) -> Callable[[Response], None]:
            def on_response(response: Response) -> None:
                row = _row(response, chat, prompts[response.request_id])
                arrived = round(time.monotonic() - started, 6)
                row |= {"phase": phase or phases[response.request_id], "session": session, "arrived_s": arrived}
                row |= {"key": keys[response.request_id]}
                if response.finish == "cancelled":
                    raise Interrupted("the evaluation was stopped", hint="the same command goes on from here")
                if response.error is None:
                    journal.append(row)
                else:  # not written down: a second attempt may answer it
                    failed[response.request_id] = row

            return on_response

        for name, ids, concurrency in (
            ("latency", [i for i in alone if i not in journal.rows], 1),
            ("answers", [i for i in requests if i not in journal.rows and i not in alone], config.concurrency),
        ):
            todo = [requests[i] for i in ids]
            hook = keep(None, time.monotonic())
            generate(engine, todo, label=f"{label}: {name}", concurrency=concurrency, on_response=hook)
        rows = journal.rows | failed
    if failed:
        reason = next(iter(failed.values()))["error"]
        if len(failed) == len(requests):
            raise ServeError(f"no question could be answered: {reason}", where=label, hint="tuneloop doctor")
        log(f"  {label}: {len(failed)} questions failed and count as wrong, the first because: {reason}")
    return {i: rows[i] for i in requests}


def _row(response: Response, chat: Chat, prompt: str) -> Row:
    raw = chat.decode(response.token_ids)
    reasoning, text = chat.split_reasoning(raw, prompt)
    return {
        "id": response.request_id,
        "text": text,
        "reasoning": reasoning,
        "token_ids": list(response.token_ids),
        "finish": response.finish,
        "first_token_s": round(response.first_token_s, 6),
        "total_s": round(response.total_s, 6),
        "error": response.error,
    }
