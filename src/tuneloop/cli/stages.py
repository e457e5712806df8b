"""``tuneloop run`` and the commands that do one stage of it (and whatever that stage needs, reused where unchanged)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuneloop.cli.options import DryRun, Gate, Json, Overrides, Project, Quiet, print_json
from tuneloop.errors import ConfigError, GateFailed
from tuneloop.progress import log, set_quiet

if TYPE_CHECKING:
    from tuneloop.loop import Loop, LoopResult

EXAMPLE = "examples/bank-support/tuneloop.yaml"
WOULD = {"reuse": "unchanged, would be reused", "continue": "was interrupted, would go on", "run": "would run"}


def add_to(app: typer.Typer) -> None:
    """Register the commands, in the order of the journey."""
    for command, example in (
        (run, "train.epochs=2"),
        (data, "--explain raw.csv:17"),
        (train, "train.learning_rate=2e-5"),
        (evaluate, "--subject base"),
        (compress, "compress.quantisation=f16"),
        (compare, "--gate"),
    ):
        app.command(command.__name__, epilog=f"Example: tuneloop {command.__name__} {EXAMPLE} {example}")(command)


def run(
    project: Project,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    gate: Gate = False,
) -> None:
    """Do the whole loop: data, train, evaluate, compress, serve, compare, report. Unchanged stages are reused."""
    result = _do("run", project, overrides, None, dry_run, as_json, quiet)
    if result is None:
        return
    if as_json:
        print_json(
            {"run": result.run.root, "report": result.report, "verdict": result.verdict, "reused": result.reused}
            | {"stages": result.stages}
        )
    else:
        print("\n" + "\n".join(result.summary))
    _judge(result, gate)


def data(
    project: Project,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    explain: Annotated[str | None, typer.Option(help="Show what became of one row: its id or file:line.")] = None,
    executor: Annotated[
        Literal["inline", "processes", "ray"] | None,
        typer.Option(help="Who applies the steps; the same as data.executor=..."),
    ] = None,
) -> None:
    """Read, clean, redact, deduplicate and split; every row is accounted for."""
    overrides = [*(overrides or []), *([f"data.executor={executor}"] if executor else [])]
    result = _do("data", project, overrides, "data", dry_run, as_json, quiet or explain is not None)
    if result is None:
        return
    folder = result.run.dir("data").path
    if explain is not None:
        from tuneloop.cli.trace import show_row

        show_row(folder, explain, as_json=as_json)
    elif as_json:
        print_json(result.stages["data"])
    else:
        print("\n".join(_about_data(result.stages["data"])))


def train(
    project: Project,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Two steps, saved, merged, reloaded and asked; tells time and memory.")
    ] = False,
    find_learning_rate: Annotated[
        bool, typer.Option("--find-learning-rate", help="Sweep the learning rate and suggest one; trains nothing.")
    ] = False,
) -> None:
    """Train the model on the training split; does or reuses the data stage first."""
    if rehearse and find_learning_rate:
        raise ConfigError(
            "--rehearse and --find-learning-rate are two different trials",
            hint="find the learning rate first, then rehearse with train.learning_rate=RATE",
        )
    if dry_run or not (rehearse or find_learning_rate):
        _stage("train", project, overrides, "train", dry_run, as_json, quiet)
        return
    from tuneloop.cli import trial

    command = shlex.join(["tuneloop", "train", str(project), *(overrides or ())])
    if find_learning_rate:
        trial.show_sweep(_loop(project, overrides, command, as_json or quiet), as_json=as_json)
    if rehearse:
        trial.show_rehearsal(_loop(project, overrides, command, as_json or quiet), as_json=as_json)


def evaluate(
    project: Project,
    overrides: Overrides = None,
    subject: Annotated[
        Literal["base", "tuned", "compressed"], typer.Option(help="Which model: as it came, tuned, or made smaller.")
    ] = "tuned",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model on the held-out split, each number with its confidence interval."""
    _stage("evaluate", project, overrides, f"evaluate-{subject}", dry_run, as_json, quiet)


def compress(
    project: Project, overrides: Overrides = None, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Merge the tuned model, write it as GGUF and check parity."""
    _stage("compress", project, overrides, "compress", dry_run, as_json, quiet)


def compare(
    project: Project,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    gate: Gate = False,
) -> None:
    """Compare tuned and base model on the same questions and judge."""
    result = _stage("compare", project, overrides, "compare", dry_run, as_json, quiet)
    if result is not None:
        _judge(result, gate)


def _stage(
    command: str, project: Path, overrides: list[str] | None, until: str, dry_run: bool, as_json: bool, quiet: bool
) -> LoopResult | None:
    result = _do(command, project, overrides, until, dry_run, as_json, quiet)
    if result is None:
        return None
    artifact = result.stages[until]
    if as_json:
        print_json(artifact)
        return result
    print(f"{until}: {result.run.dir(until).path}" + (" (reused)" if until in result.reused else ""))
    about: dict[str, Callable[[Any], Iterator[str]]]
    about = {"train": _about_training, "compress": _about_compression, "compare": _about_comparison}
    for line in about.get(until, _about_evaluation)(artifact):
        print(f"  {line}")
    return result


def _do(
    command: str,
    project: Path,
    overrides: list[str] | None,
    until: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> LoopResult | None:
    """Run a project up to a stage; returns the finished loop, or None after a dry run and in a process that only helps
    to train (see ``tuneloop.train.world``)."""
    from tuneloop.train import follow, rank_here, world

    helper = rank_here() > 0
    if helper and dry_run:
        return None
    said = shlex.join(["tuneloop", command, str(project), *(overrides or ())])
    loop = _loop(project, overrides, said, quiet or as_json or helper)
    if not dry_run:
        with world(loop.config.train.parallel.timeout_s) as here:
            if helper:
                follow(here)
                return None
            loop.world = here
            return loop.run(until)
    plan, root = loop.forecast(until), loop.run_folder.root
    if as_json:
        print_json({"run": root, "config": loop.config.model_dump(mode="json"), "plan": plan})
        return None
    print(f"# {project} with overrides; nothing was done\n{loop.config.to_yaml()}")
    print(f"# run folder: {root}\n# stages: {', '.join(plan)}")
    for name, what in plan.items():
        print(f"#   {name:20}{WOULD[what]}")
    return None


def _loop(project: Path, overrides: list[str] | None, command: str, quiet: bool) -> Loop:
    """The stages of a project; ``command`` is what to type to continue them."""
    from tuneloop.loop import Loop, load_project

    set_quiet(quiet)
    loaded = load_project(project, overrides or ())
    for note in loaded.notes:
        log(f"note: {note}")
    return Loop(loaded.value, command=command)


def _judge(result: LoopResult, gate: bool) -> None:
    verdict = result.verdict
    if gate and (verdict is None or verdict.decision != "pass"):
        said = f"{verdict.decision}: {verdict.reason}" if verdict else "missing"
        raise GateFailed(
            f"the verdict is {said}",
            where=str(result.run.root),
            hint=f"look at the items it lost: {result.report or result.run.dir('compare') / 'comparison.json'}",
        )


def _about_data(found: Any) -> Iterator[str]:
    n = found.counts
    reasons = ", ".join(f"{count} {why}" for why, count in found.dropped.items())
    yield f"rows: {n['rows_in']} in = {n['kept']} kept + {n['dropped']} dropped" + (f" ({reasons})" if reasons else "")
    yield f"split: {n['train']} train, {n['validation']} validation, {n['test']} test"
    yield f"report: {found.folder / 'report.html'}"


def _about_training(found: Any) -> Iterator[str]:
    validation = "" if found.validation_loss is None else f", validation {found.validation_loss:.4f}"
    yield f"{found.steps} steps over {found.rows} rows, loss {found.loss:.4f}{validation} (nats a token)"
    share = 100 * found.trained_parameters / found.parameters
    yield f"{found.trained_parameters:,} of {found.parameters:,} parameters trained ({share:.2f} %)"
    yield f"{found.tokens_per_s:.0f} tokens/s, peak memory {found.peak_memory_bytes / 1e9:.2f} GB"
    yield from (f"left out: {n} rows, {why}" for why, n in found.left_out.items())
    yield from (f"left out of rows that are trained: {n} parts, {why}" for why, n in found.parts_left_out.items())
    yield from (f"warning: {w['what']}; {w['advice']}" for w in found.warnings)


def _about_evaluation(found: Any) -> Iterator[str]:
    for name, value in found.metrics.items():
        yield f"{name:20}{value.value:10.4f}  [{value.low:.4f}, {value.high:.4f}]  n={value.n}  {value.method}"
    for name, why in found.skipped.items():
        yield f"{name:20}not measured: {why}"


def _about_compression(found: Any) -> Iterator[str]:
    yield ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in found.sizes_bytes.items())
    yield f"parity {'ok' if found.parity.ok else 'FAILED, it will not be served'}: {found.parity.reason}"


def _about_comparison(found: Any) -> Iterator[str]:
    d = found.difference
    yield (
        f"{found.verdict.metric}: {found.candidate} minus {found.baseline} {d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
    )
    yield f"{found.wins} won, {found.ties} tied, {found.losses} lost, p = {found.p_value:.3g}, n = {d.n}"
    yield f"verdict {found.verdict.decision}: {found.verdict.reason}"
