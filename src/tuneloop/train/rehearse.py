"""A rehearsal: two steps of each stage, saved, merged, loaded again and asked, so that what could go wrong at the end of a
long run goes wrong in a minute. It is the real run in all but its length (and ``memory.compile: auto``, which is not weighed)."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneloop.chat import Chat
from tuneloop.models import load_model, load_tokenizer, peak_bytes
from tuneloop.rundir import RunDir
from tuneloop.train import stage
from tuneloop.train.config import TrainConfig
from tuneloop.train.rows import tokenise
from tuneloop.train.texts import open_chat
from tuneloop.types import Example

ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What two steps of each stage showed. Times are seconds; ``step_s`` and ``tokens_per_s`` are means over the ``steps``
    of the whole plan as forecast, ``forecast_s`` is all of them, without validation and checkpoints; ``answer`` is what the reloaded model says to ``prompt`` after so little training."""

    step_s: float
    tokens_per_s: float
    steps: int
    forecast_s: float
    train_and_save_s: float
    reload_and_merge_s: float
    answer_s: float
    peak_memory_bytes: int
    estimated_memory_bytes: int | None
    bundle_bytes: int
    prompt: str
    answer: str
    warnings: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rehearse(
    config: TrainConfig,
    model_folder: Path,
    records_folder: Path,
    out: RunDir,
    *,
    seed: int = 0,
    dtype: str = "auto",
    chat_template: str | None = None,
    teacher: Path | None = None,
) -> Rehearsal:
    """Do two steps of each stage, save, merge, load and generate.

    The first step is the one with the largest micro-batch (it shows the memory), the second an ordinary one (it shows
    the speed). Nothing is sent to trackers.

    Args:
        config: Of the run that is rehearsed.
        model_folder: The model to start from.
        records_folder: The folder of the data stage.
        out: An empty folder; the caller removes it.
        seed: As for ``run``.
        dtype: As for ``run``.
        chat_template: As for ``run``.
        teacher: As for ``run``.

    Raises:
        TuneloopError: Whatever the run itself would raise.
    """
    import torch

    from tuneloop.train.samples import generate, split

    whole: list[tuple[int, int]] = []
    quiet = config.for_a_few_steps().model_copy(update={"trackers": ()})
    begun = time.perf_counter()
    done = stage.run(
        quiet, model_folder, records_folder, out,
        seed=seed, dtype=dtype, chat_template=chat_template, teacher=teacher, rehearsal=whole,
    )  # fmt: skip
    trained = time.perf_counter()
    model = load_model(done.bundle, dtype=dtype)
    loaded = time.perf_counter()
    chat = open_chat(load_tokenizer(done.bundle), None, records_folder, config)
    prompt = split(_first(chat, records_folder, config))[0]
    answer = generate(model, chat, prompt, ANSWER_TOKENS)
    asked = time.perf_counter()
    paces = [line["tokens_per_s"] for line in out.metrics() if "loss" in line][1::2]  # of each stage the second step
    forecast_s = sum(tokens / pace for (_, tokens), pace in zip(whole, paces, strict=True))
    steps, tokens = sum(n for n, _ in whole), sum(n for _, n in whole)
    return Rehearsal(
        step_s=round(forecast_s / steps, 3),
        tokens_per_s=round(tokens / forecast_s, 1),
        steps=steps,
        forecast_s=round(forecast_s, 1),
        train_and_save_s=round(trained - begun, 2),
        reload_and_merge_s=round(loaded - trained, 2),
        answer_s=round(asked - loaded, 2),
        peak_memory_bytes=int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_bytes(),
        estimated_memory_bytes=done.estimated_memory_bytes,
        bundle_bytes=sum(f.stat().st_size for f in done.bundle.path.rglob("*") if f.is_file()),
        prompt=chat.tokenizer.decode(prompt),
        answer=chat.decode(answer),
        warnings=done.warnings,
    )


def _first(chat: Chat, records_folder: Path, config: TrainConfig) -> Example:
    """A row to ask: the first of the validation split, or of the training split where there is none."""
    made = tokenise(chat, records_folder, "validation", config).examples
    return (made or tokenise(chat, records_folder, "train", config).examples)[0]
