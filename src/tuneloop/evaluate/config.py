"""What can be set about an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from tuneloop.config import Config
from tuneloop.types import Split

DEFAULT_METRICS = (
    "accuracy",
    "accuracy_lenient",
    "macro_f1",
    "bleu4",
    "rouge_l",
    "perplexity",
    "latency",
    "tokens_per_s",
)


class EvaluateConfig(Config):
    """One evaluation of one model on one split."""

    aliases: ClassVar[Mapping[str, str]] = {"max_samples": "limit", "per_device_eval_batch_size": "concurrency"}

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What to measure. A metric that does not fit the task is left out and the artifact says why."""

    split: Split = "test"
    """The split whose questions are asked."""

    limit: int | None = Field(None, ge=1)
    """Ask only this many questions: a seeded sample with the class shares of the split. None asks all."""

    max_new_tokens: int | None = Field(None, ge=1)
    """The most tokens of one answer. None: a quarter more than the longest reference answer of the test and validation
    split, and a few."""

    reasoning_tokens: int = Field(1024, ge=0)
    """Added to an automatic ``max_new_tokens`` where the model's template opens a reasoning block."""

    temperature: float = Field(0.0, ge=0)
    """0 always takes the most likely token, so that a run can be repeated; above it, answers are drawn with the seed."""

    concurrency: int = Field(16, ge=1)
    """How many questions are in the engine at a time, after the latency has been measured."""

    latency_requests: int = Field(16, ge=0)
    """How many questions are asked one at a time to measure latency. Their answers count like the others."""

    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples for the metrics that have no closed interval."""

    seed: int = 0
    """Of the sample, of the bootstrap and of drawn answers."""
