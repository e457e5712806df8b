"""What several commands share: their arguments and options, and results as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

Project = Annotated[Path, typer.Argument(help="The project's YAML file.", metavar="PROJECT.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, e.g. train.learning_rate=2e-5", metavar="[KEY=VALUE]...")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and what would run; do nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")]
Gate = Annotated[bool, typer.Option("--gate", help="Exit with 8 unless the verdict is pass.")]
RunName = Annotated[str, typer.Argument(help="A run's folder or its name, or a bundle's folder.", metavar="RUN")]


def to_json(value: Any) -> Any:
    """Anything a command returns, as JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(asdict(value))
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def print_json(value: Any) -> None:
    print(json.dumps(to_json(value), ensure_ascii=False, indent=1))
