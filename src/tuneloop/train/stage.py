"""The stage: records -> examples -> plan -> loop -> bundle."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.chat import Chat
from tuneloop.data import read_records
from tuneloop.errors import DataError
from tuneloop.models import (
    Bundle,
    load_model,
    load_tokenizer,
    open_bundle,
    save_adapter_bundle,
    save_model_bundle,
)
from tuneloop.progress import log, track
from tuneloop.rundir import RunDir, read_json, write_atomic
from tuneloop.train.config import TrainConfig
from tuneloop.train.parallel.world import ALONE, World, hand_out, jobs
from tuneloop.types import Dropped, Example, Split

if TYPE_CHECKING:
    from tuneloop.train.phases import Trained
    from tuneloop.train.plan import BatchPlan

BUNDLE, RESULT, PLAN = "bundle", "train.json", "plan.json"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training. Losses are nats per label token; ``left_out`` counts rows by reason."""

    bundle: Bundle
    steps: int
    tokens: int
    loss: float
    validation_loss: float | None
    tokens_per_s: float
    best_step: int | None
    trained_parameters: int
    parameters: int
    rows: int
    left_out: dict[str, int]
    peak_memory_bytes: int


def run(
    config: TrainConfig,
    model_folder: Path,
    records_folder: Path,
    out: RunDir,
    *,
    seed: int = 0,
    dtype: str = "auto",
    chat_template: str | None = None,
    world: World = ALONE,
) -> TrainResult:
    """Train on ``train.jsonl``, watch ``validation.jsonl``, write a bundle.

    Args:
        config: Method, batch, schedule.
        model_folder: The model to start from.
        records_folder: The folder of the data stage.
        out: Where checkpoints, metrics and the bundle go; checkpoints that are there are continued.
        seed: Of the adapters' start and the batch plan.
        dtype: Of the weights; see ``tuneloop.models.load_model``.
        chat_template: For a tokenizer that has none; see ``tuneloop.chat.Chat``.
        world: Of several processes the main one calls this; the others wait in ``follow`` and take part.

    Raises:
        DataError: No usable training row.
        Interrupted: Stopped by a signal, with a checkpoint.
    """
    job = _Job(config, model_folder, records_folder, out, seed, dtype, chat_template)
    hand_out(world, {"job": job})
    trained, tokenizer, rows, left_out = _fit(job, world)
    model: Any = trained.model
    bundle = _save(trained, tokenizer, model_folder, records_folder, config, out)
    result = TrainResult(
        bundle=bundle,
        **asdict(trained.fitted),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in model.parameters()),
        rows=rows,
        left_out=dict(left_out),
        peak_memory_bytes=_peak_memory_bytes(),
    )
    out.write_json(RESULT, {k: getattr(result, k) for k in result.__slots__ if k != "bundle"} | {"seed": seed})
    from tuneloop.train.loop import forget

    forget(out)
    return result


def follow(world: World) -> None:
    """What every process but the main one does: take part in its trainings until it ends.

    Raises:
        ResourceError: The main process is gone.
        Interrupted: Stopped by a signal, with a checkpoint.
    """
    for told in jobs(world):
        _fit(told["job"], world)


@dataclass(frozen=True, slots=True)
class _Job:
    """What ``run`` was asked for, as the other processes need to know it. Folders are on a disk that all of them see."""

    config: TrainConfig
    model_folder: Path
    records_folder: Path
    out: RunDir
    seed: int
    dtype: str
    chat_template: str | None


def _fit(job: _Job, world: World) -> tuple[Trained, Any, int, Counter[str]]:
    """The part of a training in which every process takes part; returns model, tokenizer, rows and rows left out."""
    import torch

    from tuneloop.train import objectives
    from tuneloop.train.parallel.place import loading
    from tuneloop.train.phases import train_phases

    config, model_folder, records_folder, seed = job.config, job.model_folder, job.records_folder, job.seed
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(model_folder)
    chat = Chat(tokenizer, template=job.chat_template)
    examples, left_out = tokenise(chat, records_folder, "train", config.max_length_tokens)
    validation, _ = tokenise(chat, records_folder, "validation", config.max_length_tokens)
    if not examples:
        reasons = "; ".join(f"{n} rows: {why}" for why, n in left_out.items()) or "the training split is empty"
        raise DataError(
            f"nothing to train on ({reasons})",
            where=str(records_folder),
            hint="raise train.max_length_tokens, or see report.html there",
        )
    plans = [_plan(examples, phase, seed + number) for number, phase in enumerate(config.phases())]
    if world.is_main:
        write_atomic(
            job.out / PLAN, json.dumps({"ids": [e.id for e in examples], "stages": [p.to_json() for p in plans]})
        )
    tokens, steps = sum(len(e.input_ids) for e in examples), sum(len(p.steps) for p in plans)
    log(f"  {len(examples):,} rows, {tokens:,} tokens, {steps} steps")
    dtype, device = loading(config, world, job.dtype)
    trained = train_phases(
        load_model(model_folder, dtype=dtype, device=device),
        config,
        examples,
        validation,
        lambda number, _: plans[number],
        objectives.create,
        job.out,
        world,
    )
    return trained, tokenizer, len(examples), left_out


def load(out: RunDir) -> TrainResult:
    """Read a finished training."""
    facts = read_json(out / RESULT)
    facts.pop("seed", None)
    return TrainResult(bundle=open_bundle(out / BUNDLE), **facts)


def tokenise(chat: Chat, records_folder: Path, split: Split, max_length: int) -> tuple[list[Example], Counter[str]]:
    """Examples of a split, and why rows were left out (too long, or what ``Chat.examples`` could not encode)."""
    kept: list[Example] = []
    lost: list[Dropped] = []
    left_out: Counter[str] = Counter()
    for record in track(read_records(records_folder, split), f"tokenising {split}", unit="rows"):
        for example in chat.examples(record, dropped=lost):
            if len(example.input_ids) > max_length:
                left_out[f"longer than {max_length} tokens"] += 1
            else:
                kept.append(example)
    left_out.update(row.reason for row in lost)
    for why, n in left_out.items():
        log(f"  {split}: {n} rows left out: {why}")
    return kept, left_out


def _plan(examples: list[Example], config: TrainConfig, seed: int) -> BatchPlan:
    from tuneloop.train.plan import draw

    return draw(
        [len(e.input_ids) for e in examples],
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        tokens_per_step=config.tokens_per_step,
        max_tokens_per_pass=config.memory.max_tokens_per_pass,
        epochs=config.epochs,
        max_steps=config.max_steps,
        seed=seed,
    )


def _save(trained: Trained, tokenizer: Any, base: Path, records: Path, config: TrainConfig, out: RunDir) -> Bundle:
    summary = records / "summary.json"
    facts = {
        "config": config.model_dump(mode="json"),
        "metrics": asdict(trained.fitted),
        "data": RunDir(records).fingerprint if summary.exists() else None,
    }
    shutil.rmtree(out / BUNDLE, ignore_errors=True)
    if trained.adapter:
        return save_adapter_bundle(out / BUNDLE, trained.model, tokenizer, base, facts)
    return save_model_bundle(out / BUNDLE, trained.model, tokenizer, facts)


def _peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
