"""A whole project: one YAML file, one section a room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tuneloop.compare import CompareConfig
from tuneloop.compress import CompressConfig
from tuneloop.config import Config, Loaded, load
from tuneloop.data import DataConfig, TokenizerConfig
from tuneloop.engines import EngineConfig
from tuneloop.evaluate import EvaluateConfig
from tuneloop.models import ModelConfig
from tuneloop.serve import ServeConfig
from tuneloop.train import TrainConfig


class ProjectConfig(Config):
    """A whole project: one YAML file."""

    name: str = Field(pattern=r"^[\w][\w.\-]*$")
    """Name of the run's folder: letters, digits, '_', '.' and '-', the first a letter or a digit."""

    seed: int = 0
    """Of the split, of the adapters' start and of the batch plan."""

    runs_folder: Path = Path("runs")
    """Where runs live; relative to the folder you stand in."""

    data: DataConfig
    """Raw files and how they are cleaned."""

    model: ModelConfig | None = None
    """The model to start from; cleaning data needs none."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    """What ``tuneloop tokenizer`` trains; the other stages use the model's own tokenizer."""

    train: TrainConfig = TrainConfig()
    """How it is trained."""

    engine: EngineConfig = EngineConfig()
    """What answers during evaluation."""

    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured on the held-out split."""

    compress: CompressConfig | None = CompressConfig()
    """How the tuned model is made smaller; null leaves this out."""

    serve: ServeConfig | None = ServeConfig()
    """How it is served; null leaves the check over HTTP out."""

    compare: CompareConfig = CompareConfig()
    """The gate between base and tuned model."""


def load_project(path: Path | str, overrides: Sequence[str] = ()) -> Loaded[ProjectConfig]:
    """Read a project file with ``section.key=value`` overrides.

    Raises:
        ConfigError: See ``tuneloop.config.load``.
    """
    return load(ProjectConfig, path, overrides)
