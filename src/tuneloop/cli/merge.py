"""``tuneloop merge``: an adapter and its base as one ordinary model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuneloop.cli.options import Json, Quiet, print_json
from tuneloop.progress import set_quiet

Adapter = Annotated[
    str, typer.Argument(help="The adapter's folder, or a run whose training made one.", metavar="ADAPTER_FOLDER")
]
Out = Annotated[Path | None, typer.Option(help="The folder to write; default: <ADAPTER_FOLDER>-merged.")]
Dtype = Annotated[str, typer.Option(help="Of the written weights: auto (the base's), float32 or bfloat16.")]


def merge(
    adapter: Adapter, out: Out = None, dtype: Dtype = "auto", as_json: Json = False, quiet: Quiet = False
) -> None:
    """Merge an adapter into its base (float32 sums, 16-bit or better on disk) and prove that it is the same model."""
    set_quiet(quiet or as_json)
    from tuneloop.models import merge_bundle, open_bundle

    folder = _folder(adapter)
    merged = merge_bundle(open_bundle(folder), out or folder.with_name(f"{folder.name}-merged"), dtype=dtype)
    if as_json:
        print_json({"folder": merged.bundle.path, "dtype": merged.dtype, "parity": merged.parity})
        return
    print(f"merged: {merged.bundle.path} ({merged.dtype})")
    print(f"  {merged.parity.reason}")


def _folder(adapter: str) -> Path:
    """The folder itself, or the bundle of a run's training."""
    path = Path(adapter)
    if path.is_dir() and any(
        (path / name).exists() for name in ("adapter_config.json", "config.json", "tuneloop.json")
    ):
        return path
    from tuneloop.cli.runs import find

    return find(adapter).dir("train") / "bundle"
