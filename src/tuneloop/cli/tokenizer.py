"""``tuneloop tokenizer``: train a tokenizer on a project's cleaned text, or on any files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneloop.cli.options import DryRun, Json, Quiet, print_json
from tuneloop.errors import ConfigError
from tuneloop.progress import log, set_quiet
from tuneloop.rundir import Run

STAGE = "tokenizer"

Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="The project's YAML file, then settings to change, e.g. tokenizer.vocab_size=8000",
        metavar="[PROJECT.yaml] [KEY=VALUE]...",
    ),
]
From = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Read these files, folders or finished data stages instead; may be repeated."),
]
Out = Annotated[Path, typer.Option(help="Where to write with --from.")]


def tokenizer(
    words: Words = None,
    from_: From = None,
    out: Out = Path("runs/tokenizer"),
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a tokenizer on cleaned text and measure how well it fits each language."""
    set_quiet(quiet or as_json)
    project, overrides = _parse(words or [], bool(from_))
    config, run = _of_files(from_, overrides, out) if from_ else _of_project(project, overrides, dry_run)
    if dry_run:
        _show_plan(config, run, as_json)
        return
    found, reused = _train(config, run)
    if as_json:
        print_json({"folder": found.folder, "reused": reused, **found.facts})
        return
    print(f"tokenizer: {found.folder}" + (" (reused)" if reused else ""))
    for line in _about(found.facts):
        print(f"  {line}")
    print(f"  report: {found.folder / 'report.html'}")


def _parse(words: list[str], from_files: bool) -> tuple[Path | None, list[str]]:
    """The project (the first word without '=') and the overrides."""
    projects = [word for word in words if "=" not in word]
    if len(projects) > 1 or bool(projects) == from_files:
        raise ConfigError(
            "give either a project or --from" if len(projects) < 2 else f"{projects[1]!r} is not key=value",
            where="tuneloop tokenizer",
            hint="tuneloop tokenizer project.yaml tokenizer.vocab_size=8000, or: tuneloop tokenizer --from texts/",
        )
    return (Path(projects[0]) if projects else None), [word for word in words if "=" in word]


def _of_files(files: list[Path], overrides: list[str], out: Path) -> tuple[Any, Run]:
    from tuneloop.config import build
    from tuneloop.data import TokenizerConfig

    plain = [word.removeprefix("tokenizer.") for word in overrides]
    loaded = build(TokenizerConfig, {"sources": [str(file) for file in files]}, plain)
    for note in loaded.notes:
        log(f"note: {note}")
    return loaded.value, Run(out)


def _of_project(project: Path | None, overrides: list[str], dry_run: bool) -> tuple[Any, Run]:
    """The section ``tokenizer`` of a project; without sources of its own it reads the project's data stage."""
    from tuneloop.loop import Loop, load_project

    assert project is not None
    loaded = load_project(project, overrides)
    for note in loaded.notes:
        log(f"note: {note}")
    command = shlex.join(["tuneloop", "tokenizer", str(project), *overrides])
    loop = Loop(loaded.value, command=command)
    config = loaded.value.tokenizer
    if not config.sources:
        if not dry_run:
            loop.run("data")
        config = config.model_copy(update={"sources": (loop.run_folder.dir("data").path,)})
    return config, loop.run_folder


def _train(config: Any, run: Run) -> tuple[Any, bool]:
    from tuneloop import data

    with run.lock():
        inputs = data.tokenizer.input_hashes(config)
        return run.stage(STAGE, config, inputs, partial(data.tokenizer.run, config), data.tokenizer.load)


def _show_plan(config: Any, run: Run, as_json: bool) -> None:
    folder = run.dir(STAGE).path
    if as_json:
        print_json({"folder": folder, "config": config.model_dump(mode="json")})
    else:
        print(f"# nothing was done\n{config.to_yaml()}# folder: {folder}")


def _about(facts: dict[str, Any]) -> Iterator[str]:
    made, base = facts["tokenizer"], facts["compared_with"]
    yield f"{facts['model']}, {made['vocab_size']:,} tokens from {facts['texts']:,} texts; on {facts['measured_on']}:"
    for k, fit in enumerate(made["fits"]):
        line = f"{fit['language']:16}{fit['fertility']:7.3f} tokens a {fit['unit']}, {fit['bytes_per_token']:.2f} bytes a token"
        line += f", {fit['covered']:.2%} of the characters in one token"
        if base:
            line += f"; {facts['compared_name']}: {base['fits'][k]['fertility']:.3f}"
        yield line
