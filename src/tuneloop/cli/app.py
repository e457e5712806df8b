"""The command line. Each command is a thin spelling of a Python call; errors are two lines, results go to stdout."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import traceback
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneloop import __version__
from tuneloop.errors import GateFailed, TuneloopError
from tuneloop.progress import log, set_quiet

EPILOG = (
    "Exit codes: 0 done · 2 configuration · 3 data · 4 model · 5 disk, memory, port · 6 missing extra · 7 serving · "
    "8 the gate did not pass (--gate) · 75 interrupted, the same command continues."
)

app = typer.Typer(
    name="tuneloop",
    help="From raw data to your own measured, monitored model, and round again.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PLAN_WORDS = {"reuse": "unchanged, would be reused", "continue": "was interrupted, would go on", "run": "would run"}

Project = Annotated[Path, typer.Argument(help="The project's YAML file.", metavar="PROJECT.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, e.g. train.learning_rate=2e-5", metavar="[KEY=VALUE]...")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and the stages; do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")]
RunName = Annotated[str, typer.Argument(help="A run's folder or its name, or a bundle's folder.", metavar="RUN")]


def main() -> None:
    """Entry point: runs the app and turns expected errors into two lines and an exit code."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except TuneloopError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception:
        traceback.print_exc()
        print(f"error: this is a bug in tuneloop {__version__}; please report it with the lines above", file=sys.stderr)
        raise SystemExit(1) from None


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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


def _do(
    project: Path,
    overrides: list[str] | None,
    until: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    *,
    command: str = "run",
) -> Any:
    """Run a project up to a stage; returns the finished loop, or None after a dry run."""
    from tuneloop.loop import Loop, load_project

    set_quiet(quiet or as_json)
    loaded = load_project(project, overrides or ())
    for note in loaded.notes:
        log(f"note: {note}")
    loop = Loop(loaded.value, command=shlex.join(["tuneloop", command, str(project), *(overrides or ())]))
    if not dry_run:
        return loop.run(until)
    plan, root = loop.forecast(until), loop.run_folder.root
    if as_json:
        print_json({"run": root, "config": loaded.value.model_dump(mode="json"), "plan": plan})
        return None
    print(f"# {project} with overrides; nothing was done\n{loaded.value.to_yaml()}")
    print(f"# run folder: {root}\n# stages: {', '.join(plan)}")
    for name, what in plan.items():
        print(f"#   {name:20}{PLAN_WORDS[what]}")
    return None


@app.command(epilog="Example: tuneloop run examples/bank-support/tuneloop.yaml train.epochs=2")
def run(
    project: Project,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with 8 unless the verdict is pass.")] = False,
) -> None:
    """Do the whole loop: data, train, evaluate, compress, serve, compare, report. Unchanged stages are reused."""
    result = _do(project, overrides, None, dry_run, as_json, quiet)
    if result is None:
        return
    if as_json:
        print_json({"run": result.run.root, "report": result.report, "verdict": result.verdict,
                    "reused": result.reused, "stages": result.stages})  # fmt: skip
    else:
        print("\n" + "\n".join(result.summary))
    if gate and result.verdict is not None and result.verdict.decision != "pass":
        raise GateFailed(f"the verdict is {result.verdict.decision}: {result.verdict.reason}", where=str(result.report))


def _stage_command(name: str, until: str, help_text: str) -> None:
    def command(
        project: Project,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        result = _do(project, overrides, until, dry_run, as_json, quiet, command=name)
        if result is None:
            return
        artifact = result.stages[until]
        if as_json:
            print_json(artifact)
        else:
            print(f"{until}: {result.run.dir(until).path}" + (" (reused)" if until in result.reused else ""))

    command.__doc__ = help_text
    app.command(name, epilog=f"Example: tuneloop {name} examples/bank-support/tuneloop.yaml")(command)


_stage_command("train", "train", "Train the model on the training split; does or reuses the data stage first.")
_stage_command("evaluate", "evaluate-tuned", "Measure the tuned model on the held-out split.")
_stage_command("compress", "compress", "Merge the tuned model, write it as GGUF and check parity.")
_stage_command("compare", "compare", "Compare tuned and base model on the same questions and judge.")


@app.command("data", epilog="Example: tuneloop data examples/bank-support/tuneloop.yaml --explain raw.csv:17")
def data_command(
    project: Project,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    explain: Annotated[str | None, typer.Option(help="Show what became of one row: its id or file:line.")] = None,
) -> None:
    """Read, clean, redact, deduplicate and split; every row is accounted for."""
    result = _do(project, overrides, "data", dry_run, as_json, quiet or explain is not None, command="data")
    if result is None:
        return
    folder = result.run.dir("data").path
    if explain is not None:
        from tuneloop.cli.trace import show_row

        show_row(folder, explain, as_json=as_json)
    elif as_json:
        print_json(result.stages["data"])
    else:
        found = result.stages["data"]
        reasons = ", ".join(f"{n} {why}" for why, n in found.dropped.items())
        print(
            f"rows: {found.counts['rows_in']} in = {found.counts['kept']} kept + {found.counts['dropped']} dropped ({reasons})"
        )
        print(f"report: {folder / 'report.html'}")


@app.command(epilog="Example: tuneloop serve bank-support --port 8001")
def serve(
    run_name: RunName,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; the default only this machine reaches.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, transformers or llamacpp.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="No API keys; only on a loopback address.")] = False,
) -> None:
    """Serve a run's model over an OpenAI-compatible HTTP API until Ctrl-C or SIGTERM, then drain."""
    from tuneloop import serve as room
    from tuneloop.cli.runs import bundle_of, project_of
    from tuneloop.config import build

    kept = project_of(run_name, "serve")
    kept.setdefault("engine", {})
    kept |= {k: v for k, v in (("host", host), ("port", port), ("auth", False if no_auth else None)) if v is not None}
    if engine:
        kept["engine"]["name"] = engine
    room.run(bundle_of(run_name), build(room.ServeConfig, kept).value)


@app.command(epilog="Example: echo 'lost my card' | tuneloop chat bank-support")
def chat(
    run_name: RunName,
    engine: Annotated[str, typer.Option(help="auto, transformers or llamacpp.")] = "auto",
    system: Annotated[
        str | None, typer.Option(help="System prompt; default: the one the run was trained with.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the most likely token.")] = 0.0,
) -> None:
    """Talk with a run's model in the terminal; lines from a pipe work too."""
    from tuneloop import engines, models
    from tuneloop import serve as room
    from tuneloop.cli.runs import bundle_of, system_prompt_of

    bundle = models.open_bundle(bundle_of(run_name))
    room.chat(
        engines.EngineConfig(name=engine),
        bundle,
        system=system if system is not None else system_prompt_of(run_name),
        max_tokens=max_tokens,
        temperature=temperature,
    )


@app.command(epilog="Example: tuneloop trace raw.csv:17 --run bank-support")
def trace(
    row: Annotated[str, typer.Argument(help="A record's id, the beginning of one, or file:line.", metavar="ID")],
    run_name: Annotated[str | None, typer.Option("--run", help="The run; default: the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Follow one row: raw, cleaned, tokenised (what is learned is coloured), trained, answered, scored, judged."""
    from tuneloop.cli.trace import show

    show(row, run_name, as_json=as_json)


@app.command(epilog="Example: tuneloop runs --json")
def runs(
    folder: Annotated[Path, typer.Option(help="Where runs live.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs: stages, verdict, size."""
    from tuneloop.cli.runs import show

    show(folder, as_json=as_json)


@app.command(epilog="Example: tuneloop doctor")
def doctor(as_json: Json = False) -> None:
    """Report hardware, versions, missing extras, disk, model sources, and what this machine can train."""
    from tuneloop.cli.doctor import show

    show(as_json=as_json)


@app.command(epilog="Example: tuneloop init my-project")
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to create.")],
) -> None:
    """Write a small, commented project to start from."""
    from tuneloop.cli.init import write

    write(folder)


keys_app = typer.Typer(help="API keys of the gateway.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


@keys_app.command("create", epilog="Example: tuneloop keys create support-desk --expires-days 90")
def keys_create(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="chat, metrics or admin; may be repeated.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="The key ends after so many days.")] = None,
) -> None:
    """Make a key. It is printed once and kept only as a hash."""
    from tuneloop.serve import keys

    key, secret = keys.create(name, scopes=tuple(scope or ("chat",)), expires_days=expires_days)
    log(f"key {key.id} for {key.name} ({', '.join(key.scopes)}); this is the only time it is shown:")
    print(secret)


@keys_app.command("list", epilog="Example: tuneloop keys list")
def keys_list(as_json: Json = False) -> None:
    """List keys (never the secrets)."""
    from tuneloop.serve import keys

    found = keys.list_keys()
    if as_json:
        print_json([{"id": k.id, "name": k.name, "scopes": k.scopes, "active": k.active} for k in found])
        return
    for key in found:
        print(f"{key.id}  {'active ' if key.active else 'ended  '}  {','.join(key.scopes):20}  {key.name}")


@keys_app.command("revoke", epilog="Example: tuneloop keys revoke 1a2b3c4d")
def keys_revoke(key_id: Annotated[str, typer.Argument(help="Its id, as listed.")]) -> None:
    """End a key now."""
    from tuneloop.serve import keys

    print(f"revoked {keys.revoke(key_id).id}")
