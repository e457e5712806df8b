"""The stage: records -> examples -> plan -> loop -> bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import (
    Bundle,
    load_model,
    load_tokenizer,
    open_bundle,
    peak_bytes,
    save_adapter_bundle,
    save_model_bundle,
)
from tuneloop.progress import log
from tuneloop.rundir import RunDir, read_json, write_atomic
from tuneloop.train.config import TrainConfig
from tuneloop.train.parallel.world import ALONE, World, hand_out, jobs
from tuneloop.train.rows import Rows, tokenise
from tuneloop.train.teaching import open_teacher
from tuneloop.train.texts import open_chat
from tuneloop.types import Example

if TYPE_CHECKING:
    from tuneloop.train.phases import Trained
    from tuneloop.train.plan import BatchPlan

BUNDLE, RESULT, PLAN = "bundle", "train.json", "plan.json"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training. Losses are nats per label token. ``rows_in`` = ``rows`` trained + those that ``left_out`` counts
    by reason; ``examples`` were made of them, and ``parts_left_out`` counts what is missing from trained rows."""

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
    rows_in: int = 0
    examples: int = 0
    parts_left_out: dict[str, int] = field(default_factory=dict)
    estimated_memory_bytes: int | None = None
    warnings: list[dict[str, Any]] = field(default_factory=list)


def run(
    config: TrainConfig,
    model_folder: Path,
    records_folder: Path,
    out: RunDir,
    *,
    seed: int = 0,
    dtype: str = "auto",
    chat_template: str | None = None,
    teacher: Path | None = None,
    rehearsal: list[tuple[int, int]] | None = None,
    world: World = ALONE,
) -> TrainResult:
    """Train on ``train.jsonl``, watch ``validation.jsonl``, write a bundle.

    Args:
        config: Method, batch, schedule.
        model_folder: The model to start from.
        records_folder: The folder of the data stage.
        out: Where checkpoints, metrics and the bundle go; checkpoints that are there are continued, and stay
            (``rundir.Run.stage`` removes them when everything of the stage is on the disk).
        seed: Of the adapters' start and the batch plan.
        dtype: Of the weights; see ``tuneloop.models.load_model``.
        chat_template: For a tokenizer that has none; see ``tuneloop.chat.Chat``.
        teacher: The model folder to learn from, for ``objective: distil``.
        rehearsal: Do two steps of each stage only; receives steps and tokens of each in the whole run (see ``train.rehearse``).
        world: Of several processes the main one calls this; the others wait in ``follow`` and take part.

    Raises:
        ConfigError: Early stopping or the best weights without a validation row.
        DataError: No usable training row.
        Interrupted: Stopped by a signal, with a checkpoint.
    """
    from tuneloop.train import preflight, watch

    job = _Job(config, model_folder, records_folder, out, seed, dtype, chat_template, teacher)
    hand_out(world, {"job": job})
    trained, tokenizer, rows = _fit(job, world, rehearsal)
    model: Any = trained.model
    bundle = _save(trained, tokenizer, model_folder, records_folder, config, out)
    result = TrainResult(
        bundle=bundle,
        **asdict(trained.fitted),
        trained_parameters=trained.parameters,
        parameters=sum(p.numel() for p in model.parameters()),
        rows=rows.rows,
        left_out=dict(rows.left_out),
        peak_memory_bytes=peak_bytes(),
        rows_in=rows.rows_in,
        examples=len(rows.examples),
        parts_left_out=dict(rows.parts_left_out),
        estimated_memory_bytes=preflight.estimated_bytes(out),
        warnings=[dict(line) for line in watch.warnings_of(out)],
    )
    out.write_json(RESULT, {k: getattr(result, k) for k in result.__slots__ if k != "bundle"} | {"seed": seed})
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
    teacher: Path | None


def _fit(job: _Job, world: World, rehearsal: list[tuple[int, int]] | None = None) -> tuple[Trained, Any, Rows]:
    """The part of a training in which every process takes part; returns model, tokenizer and rows."""
    import torch

    from tuneloop.train import methods, objectives, preflight, samples, trackers, watch
    from tuneloop.train.parallel.place import loading
    from tuneloop.train.phases import train_phases
    from tuneloop.train.plan import size, two_steps

    config, out = job.config, job.out
    four_bit = methods.four_bit(config)
    trackers.require(config.trackers)
    torch.manual_seed(job.seed)
    tokenizer = load_tokenizer(job.model_folder)
    chat = open_chat(tokenizer, job.chat_template, job.records_folder, config)
    rows = tokenise(chat, job.records_folder, "train", config)
    rows.require(job.records_folder)
    examples, validation = rows.examples, tokenise(chat, job.records_folder, "validation", config).examples
    if not validation:
        _refuse_to_watch_nothing(config, job.records_folder)
    plans = [plan_of(examples, phase, job.seed + number) for number, phase in enumerate(config.phases())]
    if rehearsal is not None:
        rehearsal += [size(examples, plan) for plan in plans]
        plans, validation = [two_steps(examples, plan) for plan in plans], validation[: 4 * config.batch_size]
    tokens, steps = sum(len(e.input_ids) for e in examples), sum(len(p.steps) for p in plans)
    log(f"  {len(examples):,} examples of {rows.rows:,} rows, {tokens:,} tokens, {steps} steps")

    def prepare() -> None:
        text = json.dumps({"ids": [e.id for e in examples], "stages": [p.to_json() for p in plans]})
        write_atomic(out / PLAN, text)
        watch.check_rows(out, rows.rows_in, rows.lengths_tokens, config.max_length_tokens, rows.left_out)
        preflight.check(config, job.model_folder, examples, plans, out, job.dtype)

    world.from_main(prepare)
    asked = validation[: config.validation.samples]
    dtype, device = loading(config, world, job.dtype)
    student = load_model(job.model_folder, dtype=dtype, device=device, four_bit=four_bit)
    if config.memory.padding_free:
        virtual = max(p.prefix.tokens if p.method in ("prefix", "prompt") else 0 for p in config.phases())
        _require_within_window(student, [*examples, *validation], virtual)
    teach = partial(open_teacher, config, job.teacher, student, tokenizer, [*examples, *validation], out, dtype=dtype)
    known = teach() if world.is_main else None
    world.sum([0.0])  # wait: what a teacher says is computed by one process and found by the others
    trained = train_phases(
        student,
        config,
        examples,
        validation,
        lambda number, _: plans[number],
        partial(objectives.create, teacher=known if world.is_main else teach()),
        out,
        job.seed,
        samples.Sampler(chat, asked, out) if asked and world.is_main else None,
        world,
    )
    return trained, tokenizer, rows


def _require_within_window(model: Any, examples: list[Example], virtual: int) -> None:
    """Refuse rows that a flat row would compute without the model's sliding window, before the first step.

    Args:
        model: The student.
        examples: Its rows.
        virtual: Tokens that come in front of each.

    Raises:
        ModelError: Some are longer.
    """
    from tuneloop.models import beyond_flat, window_tokens

    window = window_tokens(model)
    if window is None or beyond_flat(model):  # what is beyond the form is refused with advice of its own
        return
    lengths = [n for e in examples if (n := len(e.input_ids) + virtual) > window]
    if lengths:
        raise ModelError(
            f"{len(lengths):,} of {len(examples):,} examples are longer than the {window:,} tokens that layers of this model "
            f"see (the longest has {max(lengths):,})",
            where="train.memory.padding_free",
            hint=f"set it to false; or train.max_length_tokens={window - virtual}, with train.too_long=drop or split",
        )


def _refuse_to_watch_nothing(config: TrainConfig, folder: Path) -> None:
    if any(phase.validation.keeps_best or phase.validation.patience for phase in config.phases()):
        raise ConfigError(
            "train.validation asks for early stopping or the best weights, and there is no validation row to tell by",
            where=str(folder),
            hint="give data.validation_ratio > 0, or remove patience and keep: best",
        )


def load(out: RunDir) -> TrainResult:
    """Read a finished training."""
    facts = read_json(out / RESULT)
    facts.pop("seed", None)
    return TrainResult(bundle=open_bundle(out / BUNDLE), **facts)


def plan_of(examples: list[Example], config: TrainConfig, seed: int) -> BatchPlan:
    from tuneloop.train.plan import draw

    return draw(
        [len(e.input_ids) for e in examples],
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        tokens_per_step=config.tokens_per_step,
        max_tokens_per_pass=config.memory.max_tokens_per_pass,
        pack_tokens=config.max_length_tokens if config.objective == "pretrain" else None,
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
