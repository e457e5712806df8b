"""The command line. Each command is a thin spelling of a Python call; errors are two lines, results go to stdout."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from tuneloop import __version__
from tuneloop.cli import audit as audit_command
from tuneloop.cli import deploy as deploy_commands
from tuneloop.cli import keys as keys_commands
from tuneloop.cli import launch as launch_commands
from tuneloop.cli import merge as merge_command
from tuneloop.cli import stages
from tuneloop.cli import tokenizer as tokenizer_command
from tuneloop.cli.options import DryRun, Json, RunName
from tuneloop.errors import Interrupted, TuneloopError

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


def main() -> None:
    """Entry point: runs the app and turns expected errors into two lines and an exit code."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except TuneloopError as error:
        _say(error)
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


def _say(error: TuneloopError) -> None:
    """Two lines; of several processes that stop together only the main one speaks."""
    rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    if rank == "0":
        print(f"error: {error}", file=sys.stderr)
    elif not isinstance(error, Interrupted):
        print(f"error: (rank {rank}) {error}", file=sys.stderr)


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


@app.command(epilog="Example: tuneloop init my-project")
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to create.")],
) -> None:
    """Write a small, commented project to start from."""
    from tuneloop.cli.init import write

    write(folder)


stages.add_to(app)
app.add_typer(launch_commands.app, name="launch")
app.add_typer(deploy_commands.app, name="deploy")
app.add_typer(keys_commands.app, name="keys")
app.command(epilog="Example: tuneloop audit audit.jsonl.1 audit.jsonl")(audit_command.audit)
app.command(epilog="Example: tuneloop tokenizer --from texts/ tokenizer.vocab_size=8000")(tokenizer_command.tokenizer)
app.command(epilog="Example: tuneloop merge runs/bank-support/train/bundle --dtype bfloat16")(merge_command.merge)


@app.command(epilog="Example: tuneloop serve bank-support --port 8001 filters.personal_data.output=mask")
def serve(
    run_name: RunName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of serve, e.g. limits.tokens_per_day=100000", metavar="[KEY=VALUE]..."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with settings of serve, instead of those the run was made with.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; the default only this machine reaches.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Also gRPC, on this port; 0 takes a free one.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, transformers, llamacpp, openvino or upstream.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="No API keys; only on a loopback address.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Serve a run's model over an OpenAI-compatible HTTP API until Ctrl-C or SIGTERM, then drain."""
    from tuneloop import serve as room
    from tuneloop.cli.runs import bundle_of, name_of, project_of, system_prompt_of
    from tuneloop.config import build, load

    given = {
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "engine.name": engine,
        "auth": False if no_auth else None,
    }
    words = [f"{k}={json.dumps(v)}" for k, v in given.items() if v is not None]
    words += [word.removeprefix("serve.") for word in overrides or []]
    if config is not None:
        settings = load(room.ServeConfig, config, words).value
    else:
        kept = project_of(run_name, "serve")
        if kept.get("system") is None:  # what /generate asks with is what was trained
            kept["system"] = system_prompt_of(run_name)
        if kept.get("model_name") is None:
            kept["model_name"] = name_of(run_name)
        settings = build(room.ServeConfig, kept, words).value
    if dry_run:
        print(settings.to_yaml(), end="")
        return
    room.run(bundle_of(run_name), settings)


@app.command(epilog="Example: echo 'lost my card' | tuneloop chat bank-support")
def chat(
    run_name: RunName,
    engine: Annotated[str, typer.Option(help="auto, transformers, llamacpp, openvino or upstream.")] = "auto",
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
